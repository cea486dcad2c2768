//! Every page and who may see it: one table, from which the router is made and by which the guard lets in.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware;
use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, get, post};
use callahead_control::Permission;
use tower_http::csrf::CsrfLayer;

use super::frame::Refusal;
use super::guard::{self, Needs};
use super::{
    Ui, accounts, assets, audit, domain_form, domains, log, login, node, observed, overview, recipients, route_test,
    tokens,
};
use crate::api::access::Object;

/// Octets of a form at most: two full lists of local parts.
const MAX_FORM: usize = 2 << 20;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct PageRule {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// What it asks of whoever wants to see it.
    pub needs: Needs,
}

const fn page(method: &'static str, path: &'static str, needs: Needs) -> PageRule {
    PageRule { method, path, needs }
}

/// Every page.
pub const PAGES: &[PageRule] = &{
    use Needs::{Login, May, Nothing};
    use Object::{Account, Address, Domain, Own, Token};
    use Permission::{Accounts, Check, Clear, ClearAll, Domains, Lists, Node, Read, Tokens};
    [
        page("GET", "/assets/{name}", Nothing),
        page("GET", "/login", Nothing),
        page("POST", "/login", Nothing),
        page("GET", "/login/link", Nothing),
        page("POST", "/login/link", Nothing),
        page("GET", "/setup", Nothing),
        page("POST", "/setup", Nothing),
        page("POST", "/logout", Login),
        page("GET", "/password", Login),
        page("POST", "/password", Login),
        page("GET", "/", May(Read, Own)),
        page("GET", "/overview/events", May(Read, Own)),
        page("GET", "/recipients", May(Read, Own)),
        page("GET", "/recipients/{address}", May(Read, Address)),
        page("POST", "/recipients/{address}", May(Check, Address)),
        page("GET", "/recipients/{address}/clear", May(Clear, Address)),
        page("POST", "/recipients/{address}/clear", May(Clear, Address)),
        page("GET", "/domains", May(Read, Own)),
        page("GET", "/domain/new", May(Domains, Own)),
        page("POST", "/domain/new", May(Domains, Own)),
        page("GET", "/domains/{name}", May(Read, Domain)),
        page("POST", "/domains/{name}/test", May(Check, Domain)),
        page("POST", "/domains/{name}/enforce", May(Domains, Domain)),
        page("GET", "/domains/{name}/observed", May(Read, Domain)),
        page("GET", "/domains/{name}/cache", May(Read, Domain)),
        page("GET", "/domains/{name}/clear", May(Clear, Domain)),
        page("POST", "/domains/{name}/clear", May(Clear, Domain)),
        page("GET", "/domains/{name}/edit", May(Lists, Domain)),
        page("POST", "/domains/{name}/edit", May(Lists, Domain)),
        page("GET", "/domains/{name}/delete", May(Domains, Domain)),
        page("POST", "/domains/{name}/delete", May(Domains, Domain)),
        page("GET", "/log", May(Read, Own)),
        page("GET", "/log/export", May(Read, Own)),
        page("GET", "/accounts", May(Read, Own)),
        page("GET", "/account/new", May(Accounts, Own)),
        page("POST", "/account/new", May(Accounts, Own)),
        page("GET", "/accounts/{name}", May(Read, Account)),
        page("POST", "/accounts/{name}", May(Accounts, Account)),
        page("POST", "/accounts/{name}/link", May(Accounts, Account)),
        page("POST", "/accounts/{name}/log-in", May(Accounts, Account)),
        page("GET", "/accounts/{name}/delete", May(Accounts, Account)),
        page("POST", "/accounts/{name}/delete", May(Accounts, Account)),
        page("POST", "/back", Login),
        page("GET", "/tokens", May(Read, Own)),
        page("POST", "/tokens", May(Tokens, Own)),
        page("GET", "/tokens/{id}/delete", May(Tokens, Token)),
        page("POST", "/tokens/{id}/delete", May(Tokens, Token)),
        page("GET", "/audit", May(Read, Own)),
        page("GET", "/node", May(Node, Own)),
        page("GET", "/clear-everything", May(ClearAll, Own)),
        page("POST", "/clear-everything", May(ClearAll, Own)),
    ]
};

/// A page that shows a form and takes it.
fn form<T1: 'static, T2: 'static>(shown: impl Handler<T1, Ui>, taken: impl Handler<T2, Ui>) -> MethodRouter<Ui> {
    get(shown).post(taken)
}

/// All pages over one [`Ui`].
pub(super) fn router(ui: Ui) -> Router {
    Router::new()
        .route("/assets/{name}", get(assets::serve))
        .route("/login", form(login::show_login, login::log_in))
        .route("/login/link", form(login::show_link, login::take_link))
        .route("/setup", form(login::show_set_up, login::set_up))
        .route("/logout", post(login::log_out))
        .route("/password", form(login::show_password, login::change_password))
        .route("/", get(overview::overview))
        .route("/overview/events", get(overview::events))
        .route("/recipients", get(recipients::begin))
        .route("/recipients/{address}", form(recipients::kept, recipients::ask))
        .route("/recipients/{address}/clear", form(recipients::confirm_clear, recipients::clear))
        .route("/domains", get(domains::list))
        .route("/domain/new", form(domain_form::new, domain_form::create))
        .route("/domains/{name}", get(domains::domain))
        .route("/domains/{name}/test", post(route_test::test))
        .route("/domains/{name}/enforce", post(observed::enforce))
        .route("/domains/{name}/observed", get(observed::observed))
        .route("/domains/{name}/cache", get(domains::cache))
        .route("/domains/{name}/clear", form(domains::confirm_clear, domains::clear))
        .route("/domains/{name}/edit", form(domain_form::edit, domain_form::change))
        .route("/domains/{name}/delete", form(domains::confirm_delete, domains::delete))
        .route("/log", get(log::search))
        .route("/log/export", get(log::export))
        .route("/accounts", get(accounts::list))
        .route("/account/new", form(accounts::new, accounts::create))
        .route("/accounts/{name}", form(accounts::account, accounts::change))
        .route("/accounts/{name}/link", post(accounts::link))
        .route("/accounts/{name}/log-in", post(accounts::log_in_as))
        .route("/accounts/{name}/delete", form(accounts::confirm_delete, accounts::delete))
        .route("/back", post(accounts::back))
        .route("/tokens", form(tokens::list, tokens::create))
        .route("/tokens/{id}/delete", form(tokens::confirm_delete, tokens::delete))
        .route("/audit", get(audit::list))
        .route("/node", get(node::node))
        .route("/clear-everything", form(node::confirm_clear, node::clear))
        .route_layer(middleware::from_fn_with_state(ui.clone(), guard::enter))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        // Requests that change something come from a page of this very site (Sec-Fetch-Site, Origin).
        .layer(CsrfLayer::new())
        .layer(middleware::from_fn(guard::headers))
        .with_state(ui)
}

/// What is answered where no page is.
pub(crate) async fn nothing() -> axum::response::Response {
    let sentence = "There is no page here. The overview is at /, the API at /api/v1, its documentation at /api/docs.";
    Refusal::says(axum::http::StatusCode::NOT_FOUND, sentence).into_response()
}
