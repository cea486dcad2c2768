//! What this host calls itself, the default of `node`, and how it listens.
//!
//! Debian's `/proc/sys/kernel/hostname` is the short name, and destinations that want a full one in EHLO refuse it. The full name is where
//! `hostname -f` finds it too: in the line of `/etc/hosts` that has the short one. The DNS is not asked; a start does not wait for it.

use callahead_smtp::{AddressLiteral, Domain};

/// The full name where there is one, else the short one; `[127.0.0.1]` where the host has none that is a domain name.
pub(super) fn name() -> Domain {
    let short = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    Domain::parse(&canonical(short.trim(), &hosts))
        .unwrap_or(Domain::Literal(AddressLiteral::V4([127, 0, 0, 1].into())))
}

/// Whether a socket that listens on `[::]` has IPv4's connections too (`net.ipv6.bindv6only`).
pub(super) fn ipv6_takes_ipv4() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|only| only.trim() == "0")
}

/// Whether destinations that want a full name in EHLO take this one.
pub(super) fn is_full(name: &Domain) -> bool {
    match name {
        Domain::Name(name) => name.as_str().contains('.'),
        Domain::Literal(AddressLiteral::V4(address)) => !address.is_loopback(),
        Domain::Literal(AddressLiteral::V6(address)) => !address.is_loopback(),
    }
}

/// The first name with a dot beside `short` in a file as hosts(5) has it; `short` itself where it has a dot, or there is none.
fn canonical(short: &str, hosts: &str) -> String {
    if short.contains('.') {
        return short.to_owned();
    }
    for line in hosts.lines() {
        let names = || line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
        if !names().any(|name| name.eq_ignore_ascii_case(short)) {
            continue;
        }
        // "127.0.0.1 localhost.localdomain localhost vm" says nothing of the host.
        let full = names().find(|name| name.contains('.') && !name.to_ascii_lowercase().starts_with("localhost."));
        if let Some(full) = full {
            return full.to_owned();
        }
    }
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn the_full_name_is_the_one_beside_the_short_one_in_etc_hosts() {
        let debian = "127.0.0.1\tlocalhost\n# 127.0.1.1 old.example vm\n127.0.1.1\tvm.filter.example\tvm # the host\n";
        for (short, hosts, name) in [
            ("vm", debian, "vm.filter.example"),
            ("VM", debian, "vm.filter.example"),
            ("mx1.filter.example", debian, "mx1.filter.example"),
            ("other", debian, "other"),
            ("vm", "127.0.0.1 localhost.localdomain localhost vm\n", "vm"),
            ("vm", "127.0.0.1 localhost vm\n192.0.2.1 vm vm.filter.example\n", "vm.filter.example"),
            ("vm", "192.0.2.1\n", "vm"),
            ("vm", "", "vm"),
        ] {
            assert_eq!(canonical(short, hosts), name, "{short} in {hosts:?}");
        }
    }
}
