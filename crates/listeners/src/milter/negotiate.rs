//! What is agreed on at the beginning of a connection: a version, the steps that are left out, and the ones that get no reply.
//!
//! Of a whole SMTP session this filter needs four steps: CONNECT (who is it), MAIL (who sends), RCPT (the question) and
//! DATA (the last recipient is known). Only RCPT and DATA need a reply. The MTA says what it can leave out, and only that is asked of
//! it: an MTA takes a bit that it did not offer for a reason to give the filter up.
//!
//! DATA is answered with "accept", which is this filter's word only and no other's: nothing more of the message comes
//! here. So while a message is transferred nothing hangs on Callahead, and it can be started again without anybody noticing.

use super::MilterError;
use super::packet::Command;

/// The protocol's version that is spoken (Sendmail 8.14 and later, Postfix 2.6 and later).
pub const VERSION: u32 = 6;
/// The oldest version that is understood (Sendmail 8.11).
pub const OLDEST_VERSION: u32 = 2;

/// The actions that are asked for: nothing of a message is ever changed. The lists of macros need no permission.
const NO_ACTIONS: u32 = 0;
/// `SMFIF_SETSYMLIST`, among the actions that an MTA offers: it takes lists of the macros that are wanted.
const SET_MACROS: u32 = 0x100;

/// A step: its command, the bit that leaves it out (`SMFIP_NO...`), the bit by which it has no reply (`SMFIP_NR_...`).
/// `None` where the bit is not wanted.
const STEPS: [(Command, Option<u32>, Option<u32>); 9] = [
    (Command::Connect, None, Some(0x0000_1000)),
    (Command::Helo, Some(0x0000_0002), Some(0x0000_2000)),
    (Command::Mail, None, Some(0x0000_4000)),
    (Command::Rcpt, None, None),
    (Command::Data, None, None),
    (Command::Unknown, Some(0x0000_0100), Some(0x0002_0000)),
    (Command::Header, Some(0x0000_0020), Some(0x0000_0080)),
    (Command::EndOfHeaders, Some(0x0000_0040), Some(0x0004_0000)),
    (Command::Body, Some(0x0000_0010), Some(0x0008_0000)),
];

/// The macros that are wanted at each stage (`SMFIM_...`, by number), instead of what the MTA is configured to send.
const MACROS: [(u32, &str); 7] = [
    (0, "{client_addr}"), // CONNECT
    (1, ""),              // HELO
    (2, "i"),             // MAIL
    (3, "i {rcpt_addr}"), // RCPT: Postfix has a queue id only once a recipient was accepted
    (4, ""),              // DATA
    (5, ""),              // end of message
    (6, ""),              // end of headers
];

/// What both sides agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The version: the MTA's, at most [`VERSION`].
    pub version: u32,
    /// `SMFIP_...`: what is left out, and what has no reply.
    pub protocol: u32,
    /// Whether the MTA is told which macros are wanted.
    pub macros: bool,
}

impl Agreement {
    /// From the data of the MTA's OPTNEG: its version, the actions and the protocol bits that it offers.
    pub(super) fn with(data: &[u8]) -> Result<Self, MilterError> {
        let word = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?)) };
        let (Some(version), Some(actions), Some(offered)) = (word(0), word(4), word(8)) else {
            return Err(MilterError::CutOff("negotiation"));
        };
        if version < OLDEST_VERSION {
            return Err(MilterError::Version(version));
        }
        let mut protocol = 0;
        for (_, without, quiet) in STEPS {
            match (without, quiet) {
                (Some(without), _) if offered & without != 0 => protocol |= without,
                (_, Some(quiet)) if offered & quiet != 0 => protocol |= quiet,
                _ => {}
            }
        }
        Ok(Self { version: version.min(VERSION), protocol, macros: version >= VERSION && actions & SET_MACROS != 0 })
    }

    /// Whether a command is answered.
    pub(super) fn has_reply(&self, command: Command) -> bool {
        let quiet = STEPS.iter().find(|(step, _, _)| *step == command).and_then(|(_, _, quiet)| *quiet);
        self.protocol & quiet.unwrap_or(0) == 0
    }

    /// The data of the answer to OPTNEG.
    pub(super) fn data(&self) -> Vec<u8> {
        let mut data = [self.version, NO_ACTIONS, self.protocol].map(u32::to_be_bytes).concat();
        if self.macros {
            for (stage, names) in MACROS {
                data.extend_from_slice(&stage.to_be_bytes());
                data.extend_from_slice(names.as_bytes());
                data.push(0);
            }
        }
        data
    }
}
