//! A destination that is told what to do, and a folder for a daemon that asks it.

use callahead_testbed::{Destination, Listening, Script};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::domain;

pub struct World {
    /// Destinations live in a runtime of the test's own.
    pub runtime: Runtime,
    pub dir: TempDir,
    pub destination: Destination,
    pub listening: Listening,
}

impl World {
    pub fn new(script: Script) -> Self {
        let runtime = Runtime::new().unwrap();
        let destination = Destination::new(script);
        let listening = runtime.block_on(destination.listen()).unwrap();
        Self { runtime, dir: TempDir::new().unwrap(), destination, listening }
    }

    /// Where another destination listens now.
    pub fn beside(&self, destination: &Destination) -> Listening {
        self.runtime.block_on(destination.listen()).unwrap()
    }

    /// Where the destination listens.
    pub fn route(&self) -> String {
        self.listening.address().to_string()
    }

    /// `one.example` with the destination, for a configuration.
    pub fn domain(&self) -> String {
        domain("one.example", self.listening.address())
    }
}
