//! `callahead verify`: many recipients, from CSV to CSV.
//!
//! Rows are written in the order of the input, each as soon as those before it are. So what was stopped, or killed, is resumed by
//! reading the output: the rows that are there have to be the input's first ones, and the rest is asked.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use callahead_engine::{Decision, Listener, Question};
use callahead_smtp::Recipient;
use csv::StringRecord;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::ask::Asker;
use crate::cli::{DONE, UNTOLD, VerifyArgs};
use crate::output;

/// The columns that are added.
const ADDED: [&str; 8] = ["verdict", "accept_all", "row", "reason", "answer", "destination", "reply", "checked_at"];
/// Names of the column with the addresses, in lower case.
const COLUMNS: [&str; 5] = ["email", "address", "recipient", "mail", "e-mail"];
/// How often progress is told where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);

struct Input {
    /// Absent where the first row is an address already.
    header: Option<StringRecord>,
    rows: Vec<StringRecord>,
    column: usize,
}

/// Asks for all of them.
///
/// # Errors
/// When a file can't be read or written, or does not fit the other.
pub async fn run(args: VerifyArgs) -> anyhow::Result<u8> {
    let input = read_input(&args)?;
    let mut out = open_output(&args, &input)?;
    let rest = input.rows.iter().skip(out.done);
    let domains = rest.clone().filter_map(|row| {
        Some(Recipient::parse_as_written(address(row, input.column).as_bytes()).ok()?.domain().clone())
    });
    let asker = Asker::new(&args.ask, domains)?;
    if let Some(first) = asker.elsewhere.first() {
        let (file, others) = (args.ask.file().display(), asker.elsewhere.len() - 1);
        let more = if others == 0 { String::new() } else { format!(" and {others} more") };
        output::remark(&format!(
            "not in {file}, and asked at the public MX, which may be this filter itself (--route names another host): {first}{more}"
        ));
    }

    let progress = Progress::new(input.rows.len(), out.done);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut stopped = false;
    // A window over the rows: all in it are asked at the same time, and its first is written first.
    let mut window: VecDeque<(&StringRecord, JoinHandle<Decision>)> = VecDeque::new();
    let mut rest = rest.peekable();
    loop {
        while !stopped && window.len() < usize::from(args.jobs) && rest.peek().is_some() {
            let Some(row) = rest.next() else { break };
            let (engine, address) = (asker.node.engine.clone(), address(row, input.column).to_owned());
            let asked = async move { engine.decide(Question::new(address.as_bytes(), Listener::Cli)).await };
            window.push_back((row, tokio::spawn(asked)));
        }
        let Some((row, asked)) = window.front_mut() else { break };
        tokio::select! {
            decision = asked => {
                let decision = decision.context("a question came to no end")?;
                out.write(&written(row, &input), &decision)?;
                progress.one_more(&decision);
                window.pop_front();
            }
            _ = &mut interrupted, if !stopped => {
                stopped = true;
                output::remark("stopping; what is under way is finished");
            }
        }
    }
    progress.end(stopped);
    asker.node.shutdown(Duration::from_secs(5)).await;
    Ok(if stopped { UNTOLD } else { DONE })
}

fn address(row: &StringRecord, column: usize) -> &str {
    row.get(column).unwrap_or_default().trim()
}

fn read_input(args: &VerifyArgs) -> anyhow::Result<Input> {
    let name = args.input.display();
    let mut octets = Vec::new();
    if args.input == Path::new("-") {
        std::io::stdin().read_to_end(&mut octets).context("standard input can't be read")?;
    } else {
        octets = std::fs::read(&args.input).with_context(|| format!("{name} can't be read"))?;
    }
    let octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&octets);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(octets);
    let mut rows: Vec<StringRecord> = Vec::new();
    for row in reader.records() {
        rows.push(row.with_context(|| format!("{name} is no CSV file"))?);
    }
    let Some(first) = rows.first() else { bail!("{name} is empty") };
    let named = |wanted: &dyn Fn(&str) -> bool| first.iter().position(|cell| wanted(&cell.trim().to_lowercase()));
    let column = match &args.column {
        Some(column) => Some(named(&|cell| cell == column.to_lowercase()).with_context(|| {
            let columns: Vec<&str> = first.iter().collect();
            format!("{name} has no column {column:?}; it has {}", columns.join(", "))
        })?),
        None => named(&|cell| COLUMNS.contains(&cell)),
    };
    // Without such a name the first row is data if it holds an address.
    let is_header = column.is_some() || !first.iter().any(|cell| cell.contains('@'));
    let header = is_header.then(|| rows.remove(0));
    Ok(Input { header, rows, column: column.unwrap_or(0) })
}

/// The output, and how many rows were there before.
struct Output {
    writer: csv::Writer<Box<dyn Write>>,
    done: usize,
}

fn open_output(args: &VerifyArgs, input: &Input) -> anyhow::Result<Output> {
    let mut header = input.header.clone().unwrap_or_else(|| StringRecord::from(vec!["address"]));
    ADDED.iter().for_each(|name| header.push_field(name));
    let Some(path) = &args.output else {
        let mut writer =
            csv::WriterBuilder::new().flexible(true).from_writer(Box::new(std::io::stdout()) as Box<dyn Write>);
        writer.write_record(&header)?;
        return Ok(Output { writer, done: 0 });
    };
    let name = path.display();
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.with_context(|| format!("{name} can't be written"))?;
    let (done, end) = resume(&mut file, input, &header).with_context(|| format!("{name} can't be resumed"))?;
    file.set_len(end)?;
    file.seek(SeekFrom::End(0))?;
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Box::new(file) as Box<dyn Write>);
    if end == 0 {
        writer.write_record(&header)?;
    }
    Ok(Output { writer, done })
}

/// How many whole rows there are, and where they end. A torn last row is to be cut off.
fn resume(file: &mut File, input: &Input, header: &StringRecord) -> anyhow::Result<(usize, u64)> {
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(octets.as_slice());
    let mut record = StringRecord::new();
    let mut end = 0;
    let mut rows = 0;
    while reader.read_record(&mut record).unwrap_or(false) {
        let here = reader.position().byte();
        let whole = usize::try_from(here).is_ok_and(|here| octets.get(here.wrapping_sub(1)) == Some(&b'\n'));
        if rows == 0 {
            if !whole {
                break;
            }
            ensure!(record == *header, "its columns are not those of this input; choose another output file");
        } else {
            let row = input.rows.get(rows - 1);
            let row = row.context("it has more rows than the input; choose another output file")?;
            if !whole || record.len() != written(row, input).len() + ADDED.len() {
                break;
            }
            let same = record.iter().zip(written(row, input).iter()).all(|(there, cell)| there == cell);
            ensure!(same, "its row {rows} is not the input's; the input has changed, so choose another output file");
        }
        end = here;
        rows += 1;
    }
    // What is cut off has to be our own.
    ensure!(rows > 0 || octets.is_empty(), "it is no output of this command; choose another output file");
    Ok((rows.saturating_sub(1), end))
}

/// The input's part of an output row.
fn written(row: &StringRecord, input: &Input) -> StringRecord {
    match input.header {
        Some(_) => row.iter().map(guarded).collect(),
        None => StringRecord::from(vec![guarded(row.get(input.column).unwrap_or_default())]),
    }
}

/// A cell that no spreadsheet takes for a formula.
fn guarded(cell: &str) -> String {
    let cell: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cell.starts_with(['=', '+', '-', '@', '\t']) { format!("'{cell}") } else { cell }
}

impl Output {
    fn write(&mut self, row: &StringRecord, decision: &Decision) -> anyhow::Result<()> {
        let mut record: Vec<String> = row.iter().map(str::to_owned).collect();
        record.push(decision.verdict.map_or("no_address", |verdict| verdict.as_str()).to_owned());
        record.push(decision.accept_all.to_string());
        record.push(decision.row.to_string());
        record.push(decision.reason.to_string());
        record.push(decision.would.as_ref().unwrap_or(&decision.answer).reply());
        record.push(decision.destination.clone().unwrap_or_default());
        record.push(decision.reply.as_ref().map(|reply| format!("{} {}", reply.code, reply.text)).unwrap_or_default());
        record.push(decision.checked_at.map(callahead_engine::rfc3339).unwrap_or_default());
        // The input's cells are guarded already.
        let own = record.split_off(row.len());
        self.writer.write_record(record.into_iter().chain(own.iter().map(|cell| guarded(cell))))?;
        // A row that was told is on disk's way; a kill loses no more than the rows under way.
        self.writer.flush().context("the output can't be written")?;
        Ok(())
    }
}

/// A bar with rate and time left on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    lines: bool,
    told: std::cell::Cell<Instant>,
    counts: std::cell::RefCell<std::collections::BTreeMap<&'static str, u64>>,
}

impl Progress {
    fn new(all: usize, done: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(all as u64), target).with_position(done as u64);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {eta} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        if done > 0 {
            output::remark(&format!("{done} of {all} are there already; going on"));
        }
        Self { bar, lines: !terminal, told: std::cell::Cell::new(Instant::now()), counts: Default::default() }
    }

    fn one_more(&self, decision: &Decision) {
        let verdict = decision.verdict.map_or("no address", |verdict| verdict.as_str());
        *self.counts.borrow_mut().entry(verdict).or_default() += 1;
        self.bar.inc(1);
        self.bar.set_message(self.summary());
        if self.lines && self.told.get().elapsed() >= TELL_EVERY {
            self.told.set(Instant::now());
            let (at, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let left = self.bar.eta().as_secs();
            output::remark(&format!("{at} of {all}, {:.1}/s, {left} s left: {}", self.bar.per_sec(), self.summary()));
        }
    }

    fn summary(&self) -> String {
        let counts = self.counts.borrow();
        counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect::<Vec<_>>().join(", ")
    }

    fn end(&self, stopped: bool) {
        self.bar.finish_and_clear();
        let (at, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let how = if stopped { "stopped; the same command goes on from here" } else { "done" };
        let summary = Some(self.summary()).filter(|summary| !summary.is_empty());
        output::remark(&format!("{at} of {all} {how}{}", summary.map(|it| format!(": {it}")).unwrap_or_default()));
    }
}
