//! `netkin bench`: how fast networks run here.
//!
//! Each row of the table is measured in a process of its own, so that its peak memory is its own: within one process, the
//! allocator keeps what earlier rows have freed.

use std::process::{Command, Stdio};

use netkin_architectures::{Entry, InputRule};
use netkin_weights::Precision;
use serde::{Deserialize, Serialize};

use super::common::{Common, print, print_json, say};
use super::{Failure, Outcome, values};
use crate::device::{DeviceName, DeviceNames};
use crate::speed::{Operations, Part, Pass, Setting};

/// Time networks (with random weights): milliseconds, images per second, peak memory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of networks; * and ? stand for any characters
    #[arg(required = true)]
    models: Vec<String>,
    /// What to time; may be given several times
    #[arg(long, value_enum, default_values_t = [Pass::Forward, Pass::InputGrad])]
    pass: Vec<Pass>,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = values::positive)]
    batch: usize,
    /// Height and width of the images [default: what each network was made for]
    #[arg(long, value_name = "PIXELS", value_parser = values::positive)]
    size: Option<usize>,
    /// Timed repetitions, of which the median is told
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = values::positive)]
    repetitions: usize,
    /// Also tell where the time goes: blocks of the forward pass, and operations
    #[arg(long)]
    profile: bool,
    // Takes the place of the option that all commands share.
    /// Where to compute: flex (the CPU), cuda:0, vulkan:0; may be given several times, to compare
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    device: Vec<DeviceNames>,
    /// The number format of all computations: f32, f64, f16 or bf16 (on the CPU that of products alone, if the processor multiplies it); may be given several times, to compare
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    precision: Vec<Precision>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    netkin: String,
    results: Vec<Row>,
    /// With --profile, one for each network, device and precision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profile: Vec<Profile>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    model: String,
    pass: Pass,
    batch: usize,
    device: String,
    precision: String,
    median_ms: f64,
    images_per_second: f64,
    /// The most memory that was held: by the row's process (the CPU, under Linux), or of the device (a GPU).
    peak_bytes: Option<u64>,
}

/// Where a network spends its time.
#[derive(Serialize, Deserialize)]
struct Profile {
    model: String,
    batch: usize,
    device: String,
    precision: String,
    /// Of the forward pass.
    blocks: Vec<Part>,
    /// The pass that the operations are those of.
    pass: Pass,
    operations: Operations,
}

/// One row to measure.
#[derive(Clone, Copy)]
struct Job {
    entry: &'static Entry,
    pass: Pass,
    device: DeviceName,
    precision: Precision,
    /// Whether the network's profile is measured with this row.
    profile: bool,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let jobs = self.jobs()?;
        let mut document =
            Document { netkin: env!("CARGO_PKG_VERSION").to_owned(), results: Vec::new(), profile: Vec::new() };
        let mut failures = Vec::new();
        match jobs[..] {
            [job] => self.measure(job, &mut document)?,
            _ => {
                let bar = common.bar("runs");
                bar.set_length(jobs.len() as u64);
                for &job in &jobs {
                    bar.set_message(job.entry.name);
                    match self.in_its_own_process(common, job) {
                        Ok(measured) => {
                            document.results.extend(measured.results);
                            document.profile.extend(measured.profile);
                        }
                        Err(failure) => failures.push(failure),
                    }
                    bar.inc(1);
                }
                bar.finish_and_clear();
            }
        }
        if document.results.is_empty()
            && let Some(last) = failures.pop()
        {
            failures.iter().for_each(|failure| say(&failure.to_string()));
            return Err(last);
        }
        if common.json {
            print_json(&document)?;
        } else {
            print(&table(&document.results))?;
            for profile in &document.profile {
                print(&profile.table())?;
            }
        }
        for failure in &failures {
            say(&failure.to_string());
        }
        Ok(if failures.is_empty() { Outcome::Done } else { Outcome::FellShort })
    }

    /// All combinations; those that cannot be run are refused before anything is measured.
    fn jobs(&self) -> Result<Vec<Job>, Failure> {
        let devices: Vec<DeviceName> = self.device.iter().flat_map(DeviceNames::names).copied().collect();
        for device in &devices {
            let device = device.open()?;
            self.precision.iter().try_for_each(|precision| precision.check(&device))?;
        }
        let mut jobs = Vec::new();
        for entry in super::chosen(&self.models)? {
            self.size_for(entry)?;
            for &pass in &self.pass {
                for &device in &devices {
                    jobs.extend(self.precision.iter().map(|&precision| Job {
                        entry,
                        pass,
                        device,
                        precision,
                        profile: self.profile && pass == self.pass[0],
                    }));
                }
            }
        }
        Ok(jobs)
    }

    fn size_for(&self, entry: &Entry) -> Result<[usize; 2], Failure> {
        let [height, width] = entry.config.input_size();
        match self.size {
            Some(size) if [size, size] == [height, width] || entry.config.input_rule() == InputRule::Any => {
                Ok([size, size])
            }
            Some(size) => Err(format!(
                "{} takes images of {height} × {width} only, not {size} × {size}; leave --size out for it",
                entry.name
            )
            .into()),
            None => Ok([height, width]),
        }
    }

    fn measure(&self, job: Job, document: &mut Document) -> Result<(), Failure> {
        let Job { entry, pass, device, precision, profile } = job;
        let setting = Setting {
            entry,
            batch: self.batch,
            size: self.size_for(entry)?,
            precision,
            device: device.open()?,
            repetitions: self.repetitions,
        };
        let measured = setting.measure(pass)?;
        document.results.push(Row {
            model: entry.name.to_owned(),
            pass,
            batch: self.batch,
            device: device.to_string(),
            precision: precision.to_string(),
            median_ms: measured.median_ms,
            images_per_second: self.batch as f64 / measured.median_ms * 1e3,
            peak_bytes: measured.peak_bytes,
        });
        if profile {
            document.profile.push(Profile {
                model: entry.name.to_owned(),
                batch: self.batch,
                device: device.to_string(),
                precision: precision.to_string(),
                blocks: setting.profile()?,
                pass,
                operations: setting.operations(pass)?,
            });
        }
        Ok(())
    }

    /// Lets this program measure one row, as if it alone had been asked for.
    fn in_its_own_process(&self, common: &Common, job: Job) -> Result<Document, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bench", job.entry.name, "--json", "--quiet"])
            .args(["--pass", job.pass.name()])
            .args(["--device", &job.device.to_string()])
            .args(["--precision", &job.precision.to_string()])
            .args(["--batch", &self.batch.to_string()])
            .args(["--repetitions", &self.repetitions.to_string()]);
        if let Some(size) = self.size {
            command.args(["--size", &size.to_string()]);
        }
        if let Some(threads) = common.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if job.profile {
            command.arg("--profile");
        }
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // What the program says itself; else the first words of a panic.
        let sentence = said
            .lines()
            .find_map(|line| line.strip_prefix("netkin: "))
            .or(said.lines().find(|line| !line.is_empty() && !line.contains("panicked at")))
            .unwrap_or("it said nothing; there may not be enough memory");
        Err(format!(
            "{} ({}, {}, {}) could not be timed ({}): {}",
            job.entry.name,
            job.pass.name(),
            job.device,
            job.precision,
            output.status,
            sentence
        )
        .into())
    }
}

fn table(rows: &[Row]) -> String {
    let width = name_width(rows.iter().map(|row| row.model.as_str()));
    let compared = rows.iter().any(|row| (&row.device, &row.precision) != (&rows[0].device, &rows[0].precision));
    let mut text = format!(
        "{:width$}  {:10}  {:>5}  {:8}  {:9}  {:>9}  {:>9}  {:>9}",
        "model", "pass", "batch", "device", "precision", "ms", "images/s", "peak MiB"
    );
    if compared {
        text += &format!("  {:>8}", "× first");
    }
    text += "\n";
    for row in rows {
        let peak = row.peak_bytes.map_or("–".to_owned(), |bytes| format!("{:.0}", mebibytes(bytes)));
        text += &format!(
            "{:width$}  {:10}  {:>5}  {:8}  {:9}  {:>9.1}  {:>9.1}  {peak:>9}",
            row.model,
            row.pass.name(),
            row.batch,
            row.device,
            row.precision,
            row.median_ms,
            row.images_per_second
        );
        if compared {
            let same = |other: &&Row| (&other.model, other.pass) == (&row.model, row.pass);
            let first = rows.iter().find(same).unwrap_or(row);
            text += &format!("  {:>8.2}", row.images_per_second / first.images_per_second);
        }
        text += "\n";
    }
    text
}

impl Profile {
    fn table(&self) -> String {
        let width = name_width(self.blocks.iter().map(|block| block.name.as_str()));
        let mut text = format!(
            "\nforward pass of {} by blocks (batch {}, {}, {})\n{:width$}  {:>9}  {:>6}\n",
            self.model, self.batch, self.device, self.precision, "block", "ms", "share"
        );
        for block in &self.blocks {
            text += &format!("{:width$}  {:>9.2}  {:>5.1}%\n", block.name, block.ms, 100.0 * block.share);
        }
        if self.operations.times.is_empty() {
            return text;
        }
        let width = name_width(self.operations.times.iter().map(|operation| operation.name.as_str()));
        text += &format!(
            "\n{} of {} by operations\n{:width$}  {:8}  {:>5}  {:>9}  {:>6}  {:>8}  {:>7}\n",
            self.pass.name(),
            self.model,
            "operation",
            "way",
            "calls",
            "ms",
            "share",
            "MiB",
            "product"
        );
        for operation in &self.operations.times {
            text += &format!(
                "{:width$}  {:8}  {:>5}  {:>9.2}  {:>5.1}%  {:>8.1}  {:>7}\n",
                operation.name,
                if operation.backward { "backward" } else { "forward" },
                operation.calls,
                operation.ms,
                100.0 * operation.share,
                mebibytes(operation.bytes),
                if operation.product { "yes" } else { "no" }
            );
        }
        let [all, others] = self.operations.bytes().map(mebibytes);
        text += &format!(
            "a pass: {:.2} ms, in {:.1} % of which no product runs; {all:.0} MiB read and written at least, {others:.0} of them not by products\n",
            self.operations.pass_ms,
            100.0 * self.operations.share_without_product()
        );
        text
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1048576.0
}

fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(str::len).max().unwrap_or(0).max("model".len())
}
