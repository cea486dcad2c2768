//! Lines from many threads, written out by one.
//!
//! Who logs puts a line into a buffer and goes on; the writing thread lets lines gather and writes what is there in one piece. A warning or
//! an error is written at once, with all before it: should the process die of it, the log says why. Where [`MOST`] octets wait, those who log wait
//! too, so that a reader who is only slow loses nothing, but not for longer than [`PATIENCE`]: they are the threads that answer. Behind a reader
//! who stands still lines are left out until it reads again, and then the log tells how many.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Octets that may wait to be written.
const MOST: usize = 1 << 20;
/// So many octets are written without waiting for more.
const ENOUGH: usize = MOST / 2;
/// Octets written at once, with a turn for other threads behind them: within a write the system can't give them the processor.
const PIECE: usize = 64 << 10;
/// How long lines gather. A thread that wakes for every few lines takes the processor from those who answer, a thousand times a second: with 1 ms
/// the median answer at half load took two to ten times as long as with 20 (two cores).
const GATHER: Duration = Duration::from_millis(20);

/// How long who logs waits for room, once for each time that the reader stands still.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long the end waits for a reader who stands still to take the rest.
const LAST_WITHIN: Duration = Duration::from_secs(5);

/// Where lines are put. Clones put them into the same place.
#[derive(Clone, Debug)]
pub(super) struct LogWriter {
    shared: Arc<Shared>,
}

/// Puts one line there.
#[derive(Debug)]
pub(super) struct Line<'a> {
    shared: &'a Shared,
    urgent: bool,
}

/// Writes what is left when it is dropped, as far as the reader takes it within 5 s.
#[derive(Debug)]
#[must_use = "what waits to be written is lost when the process ends before this is dropped"]
pub struct Flush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    gather: Duration,
    patience: Duration,
    state: Mutex<State>,
    /// There is something to write, enough of it, or no more will come.
    more: Condvar,
    /// There is room again, or all is written.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    urgent: bool,
    closed: bool,
    /// Somebody waited for room in vain: nobody else does until there is some.
    stands_still: bool,
    /// Lines that were left out and not told of.
    lost: u64,
    thread: Thread,
}

/// What the writing thread does.
#[derive(Debug, Default)]
enum Thread {
    /// It looks at the state before it waits again.
    #[default]
    Awake,
    /// It waits for a line.
    Sleeping,
    /// It waits for more lines.
    Gathering,
    /// All is written.
    Ended,
}

impl State {
    fn is_due(&self) -> bool {
        self.urgent || self.closed || self.lines.len() >= ENOUGH
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= MOST && !self.closed
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut to: impl Write) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.state();
            while state.lines.is_empty() && !state.closed {
                state.thread = Thread::Sleeping;
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let until = Instant::now() + self.gather;
            while !state.is_due() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state.thread = Thread::Gathering;
                state = self.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.thread = Thread::Awake;
            state.urgent = false;
            state.stands_still = false;
            let is_last = state.closed;
            let lost = std::mem::take(&mut state.lost);
            std::mem::swap(&mut state.lines, &mut taken);
            drop(state);
            self.room.notify_all();
            if lost > 0 {
                // There is room for it now, behind the last line before the gap.
                tracing::warn!(lines = lost, "the log was not read for a while: lines are missing here");
            }
            // Nobody can be told that the log can't be written.
            let mut pieces = taken.chunks(PIECE);
            let _ = pieces
                .try_for_each(|piece| to.write_all(piece).map(|()| std::thread::yield_now()))
                .and_then(|()| to.flush());
            taken.clear();
            if is_last {
                self.state().thread = Thread::Ended;
                self.room.notify_all();
                return;
            }
        }
    }
}

impl LogWriter {
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        Self::with(to, GATHER, PATIENCE)
    }

    fn with(to: impl Write + Send + 'static, gather: Duration, patience: Duration) -> io::Result<(Self, Flush)> {
        let (more, room) = (Condvar::default(), Condvar::default());
        let shared = Arc::new(Shared { gather, patience, state: Mutex::default(), more, room });
        let writing = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log-writer".into()).spawn(move || writing.run(to))?;
        Ok((Self { shared: Arc::clone(&shared) }, Flush { shared, thread: Some(thread) }))
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        if state.is_full() && !state.stands_still {
            let waits = |state: &mut State| state.is_full() && !state.stands_still;
            let waited = self.shared.room.wait_timeout_while(state, self.shared.patience, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.stands_still = state.is_full();
        }
        if state.is_full() {
            state.lost += 1;
            return Ok(line.len());
        }
        if state.closed {
            // What tasks still say while the process ends.
            drop(state);
            return io::stderr().write(line);
        }
        state.lines.extend_from_slice(line);
        state.urgent |= self.urgent;
        let wake = match state.thread {
            Thread::Awake | Thread::Ended => false,
            Thread::Sleeping => true,
            Thread::Gathering => state.is_due(),
        };
        if wake {
            state.thread = Thread::Awake;
        }
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
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { shared: &self.shared, urgent: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Line { shared: &self.shared, urgent: *event.level() <= Level::WARN }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.more.notify_all();
        self.shared.room.notify_all();
        let writes = |state: &mut State| !matches!(state.thread, Thread::Ended);
        let ended = self.shared.room.wait_timeout_while(state, LAST_WITHIN, writes);
        let is_written = ended.is_ok_and(|(_, waited)| !waited.timed_out());
        if is_written && let Some(thread) = self.thread.take() {
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

    const AGES: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn a_warning_is_written_at_once_with_what_came_before_it() {
        let (send, written) = mpsc::sync_channel(100);
        let (writer, flush) = LogWriter::with(Reader(send), AGES, AGES).unwrap();
        let log = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!("first");
            tracing::warn!("second");
            let text = String::from_utf8(written.recv_timeout(SOON).unwrap()).unwrap();
            assert!(text.contains("first") && text.contains("second"), "{text}");
            tracing::info!("third");
            assert_eq!(written.try_recv(), Err(mpsc::TryRecvError::Empty), "urgent once, not for ever");
            tracing::error!("fourth");
            let text = String::from_utf8(written.recv_timeout(SOON).unwrap()).unwrap();
            assert!(text.contains("third") && text.contains("fourth"), "{text}");
        });
        drop(flush);
    }

    #[test]
    fn lines_are_written_when_they_have_gathered_or_are_enough() {
        let (send, written) = mpsc::sync_channel(100);
        let (writer, _flush) = LogWriter::with(Reader(send), Duration::from_millis(1), AGES).unwrap();
        writer.make_writer().write_all(b"alone").unwrap();
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"alone");

        let (send, written) = mpsc::sync_channel(100);
        let (writer, _flush) = LogWriter::with(Reader(send), AGES, AGES).unwrap();
        for _ in 0..ENOUGH / 1024 {
            writer.make_writer().write_all(&[b'x'; 1024]).unwrap();
        }
        let mut read = 0;
        while read < ENOUGH {
            read += written.recv_timeout(SOON).unwrap().len();
        }
        assert_eq!(read, ENOUGH);
    }

    #[test]
    fn who_logs_waits_for_a_slow_reader_and_nothing_is_lost() {
        let (send, written) = mpsc::sync_channel(0);
        let (writer, flush) = LogWriter::with(Reader(send), GATHER, AGES).unwrap();
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

    #[test]
    fn behind_a_reader_who_stands_still_lines_are_left_out_and_nobody_waits() {
        let (send, written) = mpsc::sync_channel(0);
        let (writer, flush) = LogWriter::with(Reader(send), GATHER, Duration::from_millis(1)).unwrap();
        let lines = 5 * MOST / 1024;
        for _ in 0..lines {
            writer.make_writer().write_all(&[b'x'; 1024]).unwrap();
        }
        let lost = usize::try_from(writer.shared.state().lost).unwrap();
        assert!(lost >= 2 * MOST / 1024, "{lost} of {lines} lines were left out");
        // Somebody reads again: everything else is there, and what is logged from now on.
        let reader = std::thread::spawn(move || written.iter().map(|piece| piece.len()).sum::<usize>());
        drop(flush);
        drop(writer);
        assert_eq!(reader.join().unwrap(), (lines - lost) * 1024);
    }
}
