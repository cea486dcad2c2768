//! Any octets in any pieces give the same dialogue and the same error, nothing is asked of an MTA that it did not offer, and
//! every reply is one packet. The first octet says how long the pieces are.
#![no_main]

use callahead_fuzz::requests;
use callahead_listeners::milter::{Event, Reply, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else { return };
    let dialogue = requests::<Session>(octets, usize::from(*piece));
    assert_eq!(dialogue, requests::<Session>(octets, octets.len()));
    for event in dialogue.0 {
        let Event::Reply(reply) = event else { continue };
        if let Reply::Agreed(agreed) = reply {
            // The negotiation is the first packet, or nothing was agreed on: length, command, version, actions, protocol.
            let offered = u32::from_be_bytes(octets[13..17].try_into().unwrap());
            assert_eq!(agreed.protocol & !offered, 0);
        }
        let packet = reply.encode();
        let length = u32::from_be_bytes(packet[..4].try_into().unwrap());
        assert_eq!(packet.len(), 4 + length as usize);
    }
});
