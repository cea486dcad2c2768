//! The JSON of the API, as the OpenAPI document describes it. What is written elsewhere (a verdict is the engine's affair) is described here
//! all the same, and held against real answers by the tests.
#![allow(dead_code, missing_docs, clippy::struct_excessive_bools, reason = "a description, read by a macro")]

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Problem details (RFC 9457).
#[derive(ToSchema)]
pub(crate) struct Problem {
    #[schema(example = "about:blank")]
    r#type: String,
    title: String,
    status: u16,
    /// One sentence: what is wrong and what to do.
    detail: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum VerdictName {
    Valid,
    Invalid,
    Unknown,
    NotOurs,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum SourceName {
    Cache,
    Callout,
    List,
    Policy,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum ActionName {
    Accept,
    Reject,
    Defer,
    None,
}

/// What the sender is told.
#[derive(ToSchema)]
pub(crate) struct Told {
    action: ActionName,
    #[schema(required = false, nullable = false, minimum = 400, maximum = 599)]
    code: Option<u16>,
    /// Enhanced status code (RFC 3463).
    #[schema(required = false, nullable = false)]
    enhanced: Option<String>,
    #[schema(required = false, nullable = false)]
    text: Option<String>,
}

/// The destination's words.
#[derive(ToSchema)]
pub(crate) struct Reply {
    #[schema(minimum = 200, maximum = 599)]
    code: u16,
    #[schema(required = false, nullable = false)]
    enhanced: Option<String>,
    text: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Who {
    Us,
    Them,
    Note,
}

#[derive(ToSchema)]
pub(crate) struct Line {
    /// Milliseconds since the start.
    ms: f64,
    who: Who,
    line: String,
}

/// What became of a question.
#[derive(ToSchema)]
pub(crate) struct Verdict {
    recipient: String,
    #[schema(required = false, nullable = false)]
    verdict: Option<VerdictName>,
    accept_all: bool,
    /// The row of the decision table.
    #[schema(minimum = 1, maximum = 16)]
    row: u8,
    /// One sentence.
    reason: String,
    source: SourceName,
    answer: Told,
    /// In observe mode: what the sender would have been told.
    #[schema(required = false, nullable = false)]
    would: Option<Told>,
    /// `host:port`.
    #[schema(required = false, nullable = false)]
    destination: Option<String>,
    #[schema(required = false, nullable = false)]
    reply: Option<Reply>,
    #[schema(required = false, nullable = false, format = DateTime)]
    checked_at: Option<String>,
    #[schema(required = false, nullable = false, format = DateTime)]
    expires_at: Option<String>,
    elapsed_ms: f64,
    #[schema(required = false, nullable = false)]
    transcript: Option<Vec<Line>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum EntryState {
    Valid,
    Invalid,
    AcceptAll,
    NotAcceptAll,
    RefusesNullSender,
    NullMx,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Freshness {
    Fresh,
    Stale,
    Expired,
}

/// Something that is kept, of a recipient or of a domain.
#[derive(ToSchema)]
pub(crate) struct CacheEntry {
    #[schema(required = false, nullable = false)]
    recipient: Option<String>,
    #[schema(required = false, nullable = false)]
    domain: Option<String>,
    state: EntryState,
    freshness: Freshness,
    #[schema(format = DateTime)]
    checked_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(required = false, nullable = false)]
    destination: Option<String>,
    #[schema(required = false, nullable = false)]
    reply: Option<Reply>,
}

#[derive(ToSchema)]
pub(crate) struct CachePage {
    entries: Vec<CacheEntry>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

/// What was cleared; it holds.
#[derive(ToSchema)]
pub(crate) struct Cleared {
    scope: ClearedScope,
    #[schema(required = false, nullable = false)]
    recipient: Option<String>,
    #[schema(required = false, nullable = false)]
    domain: Option<String>,
    /// Entries forgotten.
    entries: u64,
    /// The clear's number.
    epoch: u64,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum ClearedScope {
    Recipient,
    Domain,
    All,
}

#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tls {
    Off,
    Opportunistic,
    Required,
    Verified,
}

#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CalloutsMode {
    Enforce,
    Observe,
    Off,
}

#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AcceptOrDefer {
    Accept,
    Defer,
}

#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RejectOrDefer {
    Reject,
    Defer,
}

#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LocalPartCase {
    Keep,
    Fold,
}

/// What of recipients is logged: the whole address, or the domain only.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LoggedRecipients {
    Full,
    Domain,
}

/// The keys that a domain may say or leave out, the same where it is made and where it is changed, between those that differ.
macro_rules! with_policies {
    ($(#[$about:meta])* $name:ident { $($before:tt)* } { $($behind:tt)* }) => {
        $(#[$about])*
        #[derive(ToSchema, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($before)*
            #[schema(required = false)]
            tls: Option<Tls>,
            #[schema(required = false)]
            callouts: Option<CalloutsMode>,
            /// 550 or 450.
            #[schema(required = false)]
            reject_code: Option<u16>,
            #[schema(required = false)]
            valid_ttl: Option<String>,
            #[schema(required = false)]
            valid_refresh: Option<String>,
            /// At most `2h`.
            #[schema(required = false)]
            invalid_ttl: Option<String>,
            #[schema(required = false)]
            invalid_refresh: Option<String>,
            #[schema(required = false)]
            accept_all: Option<AcceptOrDefer>,
            #[schema(required = false)]
            unverifiable: Option<AcceptOrDefer>,
            #[schema(required = false)]
            tempfail: Option<AcceptOrDefer>,
            #[schema(required = false)]
            policy_rejects: Option<RejectOrDefer>,
            #[schema(required = false)]
            pass_reply_text: Option<bool>,
            #[schema(required = false)]
            local_part_case: Option<LocalPartCase>,
            /// 0 to 3650; more than the node's `log.days` is as that. 0 logs nothing.
            #[schema(required = false, maximum = 3650)]
            log_days: Option<u32>,
            /// `domain` is all there is where the node's `log.recipients` is `domain`.
            #[schema(required = false)]
            log_recipients: Option<LoggedRecipients>,
            $($behind)*
        }
    };
}

with_policies! {
    /// A domain with the keys of a `[[domain]]` in the configuration file; what is left out is as in `[defaults]`.
    DomainBody {
        /// `example.com`, or `*.example.com` for all its subdomains.
        name: String,
        /// Whose it is: a reseller's name. Resellers leave it out.
        #[schema(required = false)]
        owner: Option<String>,
        /// Tried in order: `mx`, `HOST`, `HOST:PORT`.
        #[schema(min_items = 1, max_items = 20)]
        route: Vec<String>,
        /// Where the gateway delivers its mail, in the same words; left out, the route.
        #[schema(required = false, nullable = false, max_items = 20)]
        relay: Option<Vec<String>>,
    } {
        /// Local parts that exist whatever the destination says.
        #[schema(required = false, nullable = false, max_items = 10_000)]
        valid: Option<Vec<String>>,
        /// Local parts that do not exist.
        #[schema(required = false, nullable = false, max_items = 10_000)]
        invalid: Option<Vec<String>>,
    }
}

with_policies! {
    /// What is to change of a domain (RFC 7396): keys that are left out stay, `null` goes back to the default.
    DomainPatch {
        #[schema(required = false)]
        owner: Option<String>,
        #[schema(required = false, nullable = false, min_items = 1, max_items = 20)]
        route: Option<Vec<String>>,
        #[schema(required = false, max_items = 20)]
        relay: Option<Vec<String>>,
    } {
        #[schema(required = false, max_items = 10_000)]
        valid: Option<Vec<String>>,
        #[schema(required = false, max_items = 10_000)]
        invalid: Option<Vec<String>>,
    }
}

/// A domain as it is in force, defaults filled in.
#[derive(ToSchema)]
pub(crate) struct Domain {
    name: String,
    #[schema(required = false, nullable = false)]
    owner: Option<String>,
    route: Vec<String>,
    /// Where the gateway delivers its mail; absent where that is the route.
    #[schema(required = false, nullable = false)]
    relay: Option<Vec<String>>,
    tls: Tls,
    callouts: CalloutsMode,
    reject_code: u16,
    valid_ttl: String,
    valid_refresh: String,
    invalid_ttl: String,
    invalid_refresh: String,
    accept_all: AcceptOrDefer,
    unverifiable: AcceptOrDefer,
    tempfail: AcceptOrDefer,
    policy_rejects: RejectOrDefer,
    pass_reply_text: bool,
    local_part_case: LocalPartCase,
    log_days: u32,
    log_recipients: LoggedRecipients,
    /// Absent in lists of domains, which have the number.
    #[schema(required = false, nullable = false)]
    valid: Option<Vec<String>>,
    #[schema(required = false, nullable = false)]
    invalid: Option<Vec<String>>,
    #[schema(required = false, nullable = false)]
    valid_count: Option<u64>,
    #[schema(required = false, nullable = false)]
    invalid_count: Option<u64>,
    /// It stands in the configuration file and is changed there.
    read_only: bool,
    /// The keys that the domain says itself; the others come from the defaults. Absent for the file's domains.
    #[schema(required = false, nullable = false)]
    own_keys: Option<Vec<String>>,
    /// Absent for the file's domains.
    #[schema(required = false, nullable = false)]
    revision: Option<u64>,
    #[schema(required = false, nullable = false, format = DateTime)]
    changed_at: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct DomainPage {
    domains: Vec<Domain>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum TestStepName {
    Resolve,
    Connect,
    Greeting,
    Ehlo,
    Tls,
    NullSender,
    RandomProbe,
    Postmaster,
    OpenRelay,
    Quit,
}

#[derive(ToSchema)]
pub(crate) struct TestStep {
    step: TestStepName,
    /// It went as it should for callouts to work.
    ok: bool,
    /// Callouts work, and somebody should know of it all the same.
    warning: bool,
    /// How long this step took.
    ms: f64,
    detail: String,
}

#[derive(ToSchema)]
pub(crate) struct TestedHost {
    host: String,
    /// The steps that were taken; where the session could not go on, the last is the one that failed.
    steps: Vec<TestStep>,
    #[schema(required = false, nullable = false)]
    accept_all: Option<bool>,
    /// It accepts recipients in other people's domains from this node; absent where that was not found out.
    #[schema(required = false, nullable = false)]
    relays: Option<bool>,
    transcript: Vec<Line>,
}

/// What a test of a route found.
#[derive(ToSchema)]
pub(crate) struct RouteTest {
    domain: String,
    /// Every host passed every step, warnings aside.
    ok: bool,
    null_mx: bool,
    hosts: Vec<TestedHost>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Breaker {
    Open,
    Closed,
}

/// A link that logs somebody in, once.
#[derive(ToSchema)]
pub(crate) struct LoginLink {
    account: String,
    /// Below the web interface's own address; it holds a secret.
    path: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A host that is asked.
#[derive(ToSchema)]
pub(crate) struct Destination {
    host: String,
    sessions: u64,
    idle: u64,
    waiting: u64,
    breaker: Breaker,
    connections: u64,
    callouts: u64,
    rejected: u64,
    failures: u64,
    #[schema(required = false, nullable = false)]
    retry_in_ms: Option<u64>,
    #[schema(required = false, nullable = false)]
    learned_uses: Option<u32>,
    #[schema(required = false, nullable = false)]
    last_failure: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Destinations {
    destinations: Vec<Destination>,
}

/// A decision as it was logged: a verdict, and who asked.
#[derive(ToSchema)]
pub(crate) struct LogRow {
    id: String,
    #[schema(format = DateTime)]
    at: String,
    /// The node that decided.
    node: String,
    listener: String,
    #[schema(required = false, nullable = false)]
    client: Option<String>,
    #[schema(required = false, nullable = false)]
    sender: Option<String>,
    #[schema(inline)]
    #[schema(required = true)]
    decision: Verdict,
}

#[derive(ToSchema)]
pub(crate) struct LogPage {
    rows: Vec<LogRow>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct DomainCounts {
    domain: String,
    valid: u64,
    invalid: u64,
    #[schema(required = false, nullable = false)]
    state: Option<EntryState>,
}

#[derive(ToSchema)]
pub(crate) struct DomainCountsPage {
    domains: Vec<DomainCounts>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct CacheStats {
    valid: u64,
    invalid: u64,
    domains: u64,
    #[schema(required = false, nullable = false)]
    file_bytes: Option<u64>,
    #[schema(required = false, nullable = false)]
    used_bytes: Option<u64>,
    #[schema(required = false, nullable = false)]
    failed_commits: Option<u64>,
    #[schema(required = false, nullable = false)]
    dropped: Option<u64>,
    #[schema(required = false, nullable = false)]
    superseded: Option<u64>,
    #[schema(required = false, nullable = false)]
    unreadable: Option<u64>,
    #[schema(required = false, nullable = false)]
    write_error: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct EngineStats {
    flights: u64,
    joined: u64,
    refreshes: u64,
    guesses: u64,
    superseded: u64,
    under_way: u64,
    held_down: u64,
}

#[derive(ToSchema)]
pub(crate) struct CalloutStats {
    begun: u64,
    busy: u64,
    sessions: u64,
}

#[derive(ToSchema)]
pub(crate) struct LogStats {
    written: u64,
    /// Not logged because the disk was full or slow, or there was no file.
    lost: u64,
    removed: u64,
    waiting: u64,
    used_bytes: u64,
    #[schema(required = false, nullable = false)]
    write_error: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct ListenerStats {
    name: String,
    at: String,
    open: u64,
    requests: u64,
}

/// Counters. With `domain`, only what the cache holds of it.
#[derive(ToSchema)]
pub(crate) struct Stats {
    cache: CacheStats,
    #[schema(required = false, nullable = false)]
    domain: Option<String>,
    #[schema(required = false, nullable = false)]
    engine: Option<EngineStats>,
    #[schema(required = false, nullable = false)]
    callouts: Option<CalloutStats>,
    #[schema(required = false, nullable = false)]
    log: Option<LogStats>,
    #[schema(required = false, nullable = false)]
    listeners: Option<Vec<ListenerStats>>,
}

#[derive(ToSchema)]
pub(crate) struct Node {
    name: String,
    version: String,
    #[schema(format = DateTime)]
    started_at: String,
    ready: bool,
    /// Why it is not ready.
    reasons: Vec<String>,
}

#[derive(ToSchema)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
}

#[derive(ToSchema)]
pub(crate) struct AuditEntry {
    id: String,
    #[schema(format = DateTime)]
    at: String,
    /// The account, or `admin socket`.
    who: String,
    /// From where; shown to administrators, and of one's own doings.
    #[schema(required = false, nullable = false)]
    from: Option<String>,
    action: String,
    object: String,
    #[schema(required = false, nullable = false)]
    domain: Option<String>,
    /// What was there before and is not now: the keys that changed. Of lists with more than 20 entries an object with the number of `entries`,
    /// those that were `removed`, and how many of these were `left_out`, where they do not fit into an entry.
    #[schema(required = false, nullable = false, value_type = Option<Object>)]
    before: Option<serde_json::Value>,
    /// What was there afterwards and not before, likewise, with `added`.
    #[schema(required = false, nullable = false, value_type = Option<Object>)]
    after: Option<serde_json::Value>,
}

#[derive(ToSchema)]
pub(crate) struct AuditPage {
    entries: Vec<AuditEntry>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

#[derive(Clone, Copy, ToSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleName {
    Admin,
    Reseller,
    Domain,
}

#[derive(Clone, Copy, ToSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PermissionName {
    Read,
    Check,
    Clear,
    Lists,
    Domains,
    Accounts,
    Tokens,
    Node,
    ClearAll,
}

#[derive(ToSchema)]
pub(crate) struct Account {
    name: String,
    role: RoleName,
    read_only: bool,
    /// The reseller whose account it is.
    #[schema(required = false, nullable = false)]
    owner: Option<String>,
    /// For the role `domain`: which ones.
    domains: Vec<String>,
    has_password: bool,
    revision: u64,
    #[schema(format = DateTime)]
    changed_at: String,
}

#[derive(ToSchema)]
pub(crate) struct AccountPage {
    accounts: Vec<Account>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}

/// A token; its secret is shown when it is made, and never again.
#[derive(ToSchema)]
pub(crate) struct Token {
    id: String,
    account: String,
    label: String,
    scopes: Vec<PermissionName>,
    /// It was given for a password.
    session: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required = false, nullable = false, format = DateTime)]
    expires_at: Option<String>,
    #[schema(required = false, nullable = false, format = DateTime)]
    last_used_at: Option<String>,
    #[schema(required = false, nullable = false)]
    last_used_from: Option<String>,
    /// The secret, only in the answer that made it.
    #[schema(required = false, nullable = false)]
    token: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct TokenPage {
    tokens: Vec<Token>,
    #[schema(required = false, nullable = false)]
    next: Option<String>,
}
