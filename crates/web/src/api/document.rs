//! The frame of the OpenAPI document, and what holds for every operation.

use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Specification, Ref};

use super::access::RULES;
use super::schema;

/// Title, tags, and the schemas that no operation names by itself.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Callahead",
        description = "Recipient callouts for mail filtering servers: verdicts, the cache and its clears, domains, the decision log, accounts.\n\n\
            Send `Authorization: Bearer TOKEN`; `callahead token create` makes the first one. On the admin socket no token is needed.\n\n\
            Lists come in pages: give the `next` of one as `cursor` for the following; a page may be short, or empty, and still have a `next`. \
            Changes take `If-Match` with the `ETag` that was read. Errors are problem details (RFC 9457) whose `detail` says what is wrong and what to do."
    ),
    components(schemas(schema::Problem)),
    tags(
        (name = "recipients", description = "Verdicts"),
        (name = "cache", description = "What is kept, and clears"),
        (name = "domains", description = "Routes, policies, recipient lists"),
        (name = "log", description = "What was decided, and as it is decided"),
        (name = "node", description = "This node"),
        (name = "access", description = "Accounts, tokens, audit log")
    )
)]
pub(crate) struct Document;

/// Adds what every operation has: problems, and the token.
pub(crate) fn complete(mut document: Specification) -> Specification {
    let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_default().add_security_scheme("token", scheme);
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("GET", &mut item.get),
            ("PUT", &mut item.put),
            ("POST", &mut item.post),
            ("PATCH", &mut item.patch),
            ("DELETE", &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let rule = RULES.iter().find(|rule| rule.method == method && rule.path == path);
            add_problem(operation);
            if let Some(permission) = rule.and_then(|rule| rule.permission) {
                operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
                let needs = format!("Needs the permission `{}`.", permission.as_str());
                let description = operation.description.get_or_insert_default();
                *description = if description.is_empty() { needs } else { format!("{description}\n\n{needs}") };
            }
        }
    }
    document
}

fn add_problem(operation: &mut Operation) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new()
        .description("A problem: `detail` says what is wrong and what to do")
        .content("application/problem+json", content)
        .build();
    operation.responses.responses.insert("default".to_owned(), response.into());
}
