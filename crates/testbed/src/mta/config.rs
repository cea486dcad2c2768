//! Destinations' configurations: as little as a server needs to hold mailboxes, and its own defaults for the rest, above
//! all for how it treats clients that ask and never send.

use std::net::SocketAddr;

use super::{Files, Kind, Mailboxes};

pub(super) fn destination(kind: Kind, boxes: &Mailboxes, port: u16) -> Files {
    match kind {
        Kind::Postfix => postfix(boxes, port),
        Kind::Exim => exim(boxes, port),
        Kind::OpenSmtpd => opensmtpd(boxes, port),
        Kind::Sendmail => sendmail(boxes, port),
    }
}

/// The services of Postfix without chroots, and `smtpd` on the given port.
pub(super) fn postfix_master(port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 300   1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n -     - trivial-rewrite
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
relay     unix  - - n -     - smtp
showq     unix  n - n -     - showq
error     unix  - - n -     - error
retry     unix  - - n -     - error
discard   unix  - - n -     - discard
local     unix  - n n -     - local
anvil     unix  - - n -     1 anvil
scache    unix  - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
"
    )
}

/// What every Postfix in a test needs: logs in the shared folder, no DNS.
pub(super) const POSTFIX_MAIN: &str = "compatibility_level = 3.6
maillog_file = /instance/mail.log
maillog_file_prefixes = /instance
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
alias_maps =
alias_database =
mydestination =
";

fn postfix(boxes: &Mailboxes, port: u16) -> Files {
    let maps = if boxes.accept_all { "static:any" } else { "texthash:/instance/mailboxes" };
    let main = format!(
        "{POSTFIX_MAIN}myhostname = postfix.destination.example
virtual_mailbox_domains = {}
virtual_mailbox_maps = {maps}
virtual_transport = discard:
",
        boxes.domain
    );
    let list = boxes.local_parts.iter().map(|part| format!("{part}@{} any\n", boxes.domain)).collect();
    vec![("main.cf", main), ("master.cf", postfix_master(port)), ("mailboxes", list)]
}

pub(super) fn exim_mailboxes(boxes: &Mailboxes) -> String {
    boxes.local_parts.iter().map(|part| format!("{part}\n")).collect()
}

fn exim(boxes: &Mailboxes, port: u16) -> Files {
    let only = if boxes.accept_all { "" } else { "local_parts = lsearch;/instance/mailboxes\n  " };
    let config = format!(
        "primary_hostname = exim.destination.example
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
log_file_path = /instance/%slog
log_selector = +smtp_connection +smtp_protocol_error +smtp_syntax_error
host_lookup =
acl_smtp_rcpt = rcpt

begin acl
rcpt:
  require verify = recipient
  accept

begin routers
mailboxes:
  driver = redirect
  domains = {}
  {only}data = :blackhole:
",
        boxes.domain
    );
    vec![("exim4.conf", config), ("mailboxes", exim_mailboxes(boxes))]
}

fn opensmtpd(boxes: &Mailboxes, port: u16) -> Files {
    let config = format!(
        "table mailboxes file:/instance/mailboxes
listen on 127.0.0.1 port {port} hostname opensmtpd.destination.example
action throw mda \"/bin/cat >/dev/null\" virtual <mailboxes>
match from any for domain \"{}\" action throw
",
        boxes.domain
    );
    let list = if boxes.accept_all {
        format!("@{} nobody\n", boxes.domain)
    } else {
        boxes.local_parts.iter().map(|part| format!("{part}@{} nobody\n", boxes.domain)).collect()
    };
    vec![("smtpd.conf", config), ("mailboxes", list)]
}

/// What every Sendmail in a test needs: no DNS.
fn sendmail_common(port: u16) -> String {
    format!(
        "include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`debian')dnl
DOMAIN(`debian-mta')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
define(`confSERVICE_SWITCH_FILE', `/etc/mail/service.switch-nodns')dnl
define(`confTO_IDENT', `0')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Port={port}, Addr=127.0.0.1')dnl
"
    )
}

pub(super) fn sendmail_front(port: u16, destination: SocketAddr) -> String {
    let common = sendmail_common(port);
    let (ip, port) = (destination.ip(), destination.port());
    format!("{common}define(`SMART_HOST', `relay:[{ip}]')dnl\ndefine(`RELAY_MAILER_ARGS', `TCP $h {port}')dnl\n")
}

/// Limits for clients in Debian's `sendmail.mc`.
const SENDMAIL_LIMITS: &str = "define(`confCONNECTION_RATE_THROTTLE', `15')dnl
define(`confCONNECTION_RATE_WINDOW_SIZE',`10m')dnl
FEATURE(`access_db', , `skip')dnl
FEATURE(`greet_pause', `1000')dnl
FEATURE(`delay_checks', `friend', `n')dnl
define(`confBAD_RCPT_THROTTLE',`3')dnl
FEATURE(`conncontrol', `nodelay', `terminate')dnl
FEATURE(`ratecontrol', `nodelay', `terminate')dnl
";

fn sendmail(boxes: &Mailboxes, port: u16) -> Files {
    let domain = &boxes.domain;
    let config = format!(
        "{}{SENDMAIL_LIMITS}VIRTUSER_DOMAIN(`{domain}')dnl\nFEATURE(`virtusertable')dnl\nMAILER(`local')dnl\nMAILER(`smtp')dnl\n",
        sendmail_common(port)
    );
    let others = if boxes.accept_all { "nobody" } else { "error:5.1.1:550 User unknown" };
    let mut list: String = boxes.local_parts.iter().map(|part| format!("{part}@{domain} nobody\n")).collect();
    list.push_str(&format!("@{domain} {others}\n"));
    vec![("sendmail.mc", config), ("mailboxes", list)]
}
