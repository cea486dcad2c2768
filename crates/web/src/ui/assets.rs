//! Styles, script and icon: compiled in, and under addresses that change with their content, so that browsers may keep them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};

struct Asset {
    address: String,
    kind: &'static str,
    content: &'static [u8],
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        ("style", "css", "text/css; charset=utf-8", include_bytes!("../../assets/style.css").as_slice()),
        ("script", "js", "text/javascript; charset=utf-8", include_bytes!("../../assets/script.js")),
        ("icon", "svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
    ]
    .map(|(name, ending, kind, content)| Asset {
        address: format!("/assets/{name}-{:016x}.{ending}", fingerprint(content)),
        kind,
        content,
    })
});

/// FNV-1a: it only has to differ when the content does.
fn fingerprint(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// The stylesheet's address.
pub(super) fn style() -> &'static str {
    &ASSETS[0].address
}

/// The script's address.
pub(super) fn script() -> &'static str {
    &ASSETS[1].address
}

/// The icon's address.
pub(super) fn icon() -> &'static str {
    &ASSETS[2].address
}

pub(super) async fn serve(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.address.strip_prefix("/assets/") == Some(name.as_str())) {
        Some(asset) => {
            let headers: [(HeaderName, &str); 2] =
                [(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
