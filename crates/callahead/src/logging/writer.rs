//! Lines from many threads, written out by one.
//!
//! Who logs puts a line into a buffer and goes on; the writing thread takes all that is there and writes it in one piece. A log
//! whose reader stands still makes those who log wait once [`MOST`] octets do, so nothing is lost and nothing grows.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Octets that may wait to be written.
const MOST: usize = 1 << 20;
/// Octets written at once: the system can't give the processor to another thread within a write.
const PIECE: usize = 64 << 10;
/// How long the writing thread lets lines gather after it was idle: woken for each line, it would cost more than the write does.
const GATHER: Duration = Duration::from_millis(1);

/// Where lines are put. Clones put them into the same place.
#[derive(Clone, Debug)]
pub(super) struct LogWriter {
    shared: Arc<Shared>,
}

/// Writes what is left when it is dropped.
#[derive(Debug)]
#[must_use = "what waits to be written is lost when the process ends before this is dropped"]
pub struct Flush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write, or no more will come.
    more: Condvar,
    /// There is room again.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    idle: bool,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut to: impl Write) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.state();
            if state.lines.is_empty() && !state.closed {
                while state.lines.is_empty() && !state.closed {
                    state.idle = true;
                    state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle = false;
                }
                if !state.closed {
                    // Ends early when no more will come.
                    let waited = self.more.wait_timeout(state, GATHER);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            let is_last = state.closed;
            std::mem::swap(&mut state.lines, &mut taken);
            drop(state);
            self.room.notify_all();
            // Nobody can be told that the log can't be written.
            let _ = taken.chunks(PIECE).try_for_each(|piece| to.write_all(piece)).and_then(|()| to.flush());
            taken.clear();
            if is_last {
                return;
            }
        }
    }
}

impl LogWriter {
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log-writer".into()).spawn(move || writing.run(to))?;
        Ok((Self { shared: Arc::clone(&shared) }, Flush { shared, thread: Some(thread) }))
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        while state.lines.len() >= MOST && !state.closed {
            state = self.shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            // What tasks still say while the process ends.
            drop(state);
            return io::stderr().write(line);
        }
        state.lines.extend_from_slice(line);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.shared.more.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.more.notify_all();
        self.shared.room.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    /// Takes what is written, piece by piece, and only when it is asked to.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_of_every_thread_is_written_once_and_whole() {
        let (send, written) = mpsc::sync_channel(100_000);
        let (writer, flush) = LogWriter::start(Reader(send)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    for number in 0..1000 {
                        writer.make_writer().write_all(format!("{thread} {number}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        drop(flush);
        let all: Vec<u8> = written.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        for thread in 0..4 {
            let own: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&format!("{thread} "))).collect();
            assert_eq!(own, (0..1000).map(|number| number.to_string()).collect::<Vec<_>>());
        }
        assert_eq!(text.lines().count(), 4000);
    }

    #[test]
    fn who_logs_waits_while_the_reader_stands_still_and_nothing_is_lost() {
        let (send, written) = mpsc::sync_channel(0);
        let (writer, flush) = LogWriter::start(Reader(send)).unwrap();
        let logging = writer.clone();
        // Three times as much as may wait: it can't come to its end before somebody reads.
        let lines = 3 * MOST / 1024;
        let thread = std::thread::spawn(move || {
            for _ in 0..lines {
                logging.make_writer().write_all(&[b'x'; 1024]).unwrap();
            }
            drop(flush);
        });
        let mut read = 0;
        while let Ok(piece) = written.recv() {
            assert!(piece.len() <= MOST + 1024, "{} octets waited", piece.len());
            read += piece.len();
        }
        thread.join().unwrap();
        assert_eq!(read, lines * 1024);
    }
}
