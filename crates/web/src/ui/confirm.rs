//! A page between a click and something that can't be taken back.

use askama::Template;

use super::frame::{Answer, Page, Visitor, show};

/// What is to be confirmed.
#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    page: Page,
    sentences: Vec<String>,
    action: String,
    back: String,
    button: String,
    /// What has to be written first.
    word: Option<String>,
}

impl Confirm {
    pub(super) fn new(visitor: &Visitor, nav: &str, title: String) -> Self {
        Self {
            page: visitor.page(&title, nav),
            sentences: Vec::new(),
            action: String::new(),
            back: String::new(),
            button: String::new(),
            word: None,
        }
    }

    pub(super) fn sentence(mut self, text: impl Into<String>) -> Self {
        self.sentences.push(text.into());
        self
    }

    pub(super) fn button(mut self, text: &str) -> Self {
        text.clone_into(&mut self.button);
        self
    }

    pub(super) fn paths(mut self, action: String, back: String) -> Self {
        (self.action, self.back) = (action, back);
        self
    }

    pub(super) fn word(mut self, word: &str) -> Self {
        self.word = Some(word.to_owned());
        self
    }

    pub(super) fn show(self) -> Answer {
        show(&self)
    }
}
