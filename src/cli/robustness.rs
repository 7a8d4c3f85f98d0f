//! `netkin robustness`: how networks that diverge stand images that were attacked on another one.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::common::{Common, print, print_json};
use super::diverge::{self, Kind};
use super::study_options::{again_later, load, percent};
use super::{Failure, Outcome, values};
use crate::attacks::Attack;
use crate::files::{MAX_TABLE, read_regular};
use crate::images::{Dataset, RgbImage, Sample};
use crate::model::{Crop, Model};
use crate::report::{Figure, Point, Quantity, Series, points};
use crate::runs::{Key, write_atomically, written};
use crate::training::study::{OverSeeds, Study};
use crate::training::transfer::{EPS, Method, correct, correlation};

/// Attack the networks of `netkin diverge` with images made on a separately trained one
///
/// Prints the accuracy of the last network, trained to diverge and in the usual way, on clean images and after a fast gradient step and PGD
/// (forty steps of 0.01) in L∞: the table of Zhen et al., with 95 % intervals over seeds. Pixels are in [0, 1]. What is done is kept; the
/// results of other --eps or fewer images go into files named by them, such as robustness-eps-0.05-100-images.csv.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of `netkin diverge`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The largest change of a pixel; may be given several times [default: 0.03, 0.05 and 0.10]
    #[arg(long, value_name = "EPS", value_parser = values::fraction)]
    eps: Vec<f64>,
    /// Use the first COUNT images only
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    model: String,
    /// The network that is compared, by its place among those that were trained one after another.
    network: usize,
    seeds: Vec<u64>,
    images: usize,
    rows: Vec<Row>,
    /// The mean correlation of its features with those of the networks before it, on clean images.
    correlation: Compared,
    /// Of all networks of all seeds.
    counts: Vec<Count>,
}

/// Images as they are, or attacked.
#[derive(Serialize)]
struct Row {
    /// None for images as they are.
    method: Option<Method>,
    eps: Option<f64>,
    /// Accuracy, 0 to 1.
    #[serde(flatten)]
    accuracy: Compared,
}

/// A number of the network that was trained in the usual way, of the one that diverges, and of what the second has more; seed by seed.
#[derive(Serialize)]
struct Compared {
    baseline: OverSeeds,
    diverge: OverSeeds,
    difference: OverSeeds,
}

/// How many images a network gets right.
#[derive(Serialize)]
struct Count {
    seed: u64,
    network: String,
    method: Option<Method>,
    eps: Option<f64>,
    correct: usize,
}

/// Images at once.
const BATCH: usize = 128;

/// The networks of a seed.
struct Loaded {
    seed: u64,
    source: Model,
    names: Vec<String>,
    /// In the order of the names.
    judges: Vec<Model>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        again_later(|| self.attack(common))
    }

    fn attack(&self, common: &Common) -> Result<Outcome, Failure> {
        let study = Study::existing(&self.folder)?;
        if study.settings()["study"] != diverge::STUDY {
            let kind = study.settings()["study"].as_str().unwrap_or("unknown").to_owned();
            return Err(format!(
                "{} is the folder of another study ({kind}); give one that `netkin diverge` made",
                self.folder.display()
            )
            .into());
        }
        let path = self.folder.join(diverge::FILE);
        let unfinished = |error: &dyn std::fmt::Display| {
            format!(
                "cannot read {} ({error}); run the `netkin diverge` command of that folder to its end",
                path.display()
            )
        };
        let bytes = read_regular(&path, MAX_TABLE).map_err(|error| unfinished(&error))?;
        let trained: diverge::Document = serde_json::from_slice(&bytes).map_err(|error| unfinished(&error))?;
        let mut eps = if self.eps.is_empty() { EPS.to_vec() } else { self.eps.clone() };
        eps.sort_by(f64::total_cmp);
        eps.dedup();
        if let Some(wrong) = eps.iter().find(|eps| !(**eps > 0.0 && **eps <= 1.0)) {
            return Err(format!(
                "--eps {wrong} is out of range; it is a change of pixels in [0, 1], above 0 and up to 1"
            )
            .into());
        }
        let dataset = Dataset::open(&self.folder.join("images"), Some(&self.folder.join("labels.csv")))?;
        let all = dataset.samples.len();
        let dataset = match self.limit {
            Some(count) => dataset.limit(count),
            None => dataset,
        };
        let mut conditions: Vec<Option<(Method, f64)>> = vec![None];
        conditions.extend(eps.iter().flat_map(|&eps| Method::ALL.map(|method| Some((method, eps)))));
        let last = trained.count;
        let mut correlations = [Vec::new(), Vec::new()];
        let mut counts = Vec::new();
        let mut images = 0;
        let total = trained.seeds.len() * conditions.len();
        for (index, &seed) in trained.seeds.iter().enumerate() {
            let networks = Loaded::of(&study, &trained, seed, common)?;
            let pictures = pictures(&dataset, &networks.source)?;
            images = pictures.len();
            for (place, condition) in conditions.iter().enumerate() {
                for (network, correct) in networks.names.iter().zip(self.counts(&networks, &pictures, *condition)?) {
                    let (method, eps) = condition.unzip();
                    counts.push(Count { seed, network: network.clone(), method, eps, correct });
                }
                common.note(&format!("{} of {total} attacks", index * conditions.len() + place + 1));
            }
            let earlier: Vec<&Model> =
                (1..last).map(|number| networks.judge(&Kind::Diverge.network(seed, number))).collect();
            // As the baseline has it: with the baselines before it.
            let usual: Vec<&Model> =
                (1..last).map(|number| networks.judge(&Kind::Baseline.network(seed, number))).collect();
            let of = |kind: Kind, others: &[&Model]| {
                let batch = BATCH.min(pictures.len());
                correlation(networks.judge(&kind.network(seed, last)), others, &pictures, batch)
            };
            correlations[0].push(of(Kind::Baseline, &usual));
            correlations[1].push(of(Kind::Diverge, &earlier));
        }
        let rows: Vec<Row> =
            conditions.iter().map(|condition| Row::of(*condition, &counts, &trained.seeds, last, images)).collect();
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            model: trained.model.clone(),
            network: last,
            images,
            rows,
            correlation: Compared::of(correlations),
            counts,
            seeds: trained.seeds,
        };
        let text = document.to_text();
        let title = title(&document.model, last);
        let stem = stem(&eps, (images < all).then_some(images));
        let write = |ending: &str, bytes: &[u8]| write_atomically(&self.folder.join(format!("{stem}.{ending}")), bytes);
        write("json", &serde_json::to_vec_pretty(&document)?)?;
        write("csv", document.to_csv()?.as_bytes())?;
        write("txt", text.as_bytes())?;
        write("svg", figure(&document.rows, &title).to_svg().as_bytes())?;
        if common.json {
            print_json(&document)?;
        } else {
            print(&text)?;
        }
        Ok(Outcome::Done)
    }

    /// How many images each judge gets right, found in the folder or counted.
    fn counts(
        &self,
        networks: &Loaded,
        pictures: &[(RgbImage, usize)],
        condition: Option<(Method, f64)>,
    ) -> Result<Vec<usize>, Failure> {
        let attack = condition.map(|(method, eps)| method.attack(eps));
        let hash = |model: &Model| Value::from(model.sha256());
        let settings = written(&json!({
            "attack": attack.as_ref().map(Attack::settings),
            "source": hash(&networks.source),
            "judges": networks.judges.iter().map(hash).collect::<Vec<_>>(),
            "images": of_pictures(pictures),
        }));
        let path = self.folder.join("robustness").join(format!("{}.json", Key::of(&settings)));
        let kept = read_regular(&path, MAX_TABLE).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let kept = kept.and_then(|kept| serde_json::from_value::<Vec<usize>>(kept["correct"].clone()).ok());
        if let Some(kept) = kept.filter(|kept| kept.len() == networks.judges.len()) {
            return Ok(kept);
        }
        let counts = correct(&networks.source, &networks.judges, pictures, attack.as_ref(), BATCH);
        let record =
            json!({"seed": networks.seed, "settings": settings, "networks": networks.names, "correct": counts});
        write_atomically(&path, &serde_json::to_vec_pretty(&record)?)?;
        Ok(counts)
    }
}

impl Loaded {
    fn of(study: &Study, trained: &diverge::Document, seed: u64, common: &Common) -> Result<Self, Failure> {
        let model = |name: &str| load(study, &trained.model, name, common);
        let names = trained.networks.iter().filter(|network| network.seed == seed && network.kind != Kind::Source);
        let names: Vec<String> = names.map(|network| network.name.clone()).collect();
        let judges = names.iter().map(|name| model(name)).collect::<Result<_, _>>()?;
        Ok(Self { seed, source: model(&Kind::Source.network(seed, 0))?, names, judges })
    }

    /// The network of that name; all that a study trains are there.
    fn judge(&self, name: &str) -> &Model {
        let place = self.names.iter().position(|other| other == name);
        &self.judges[place.expect("a study has all its networks")]
    }
}

/// What the files of the results are called, without their endings; with other options than the paper's, they have names of their own.
fn stem(eps: &[f64], images: Option<usize>) -> String {
    let mut stem = "robustness".to_owned();
    if eps != EPS {
        stem += "-eps";
        eps.iter().for_each(|eps| stem += &format!("-{eps}"));
    }
    if let Some(images) = images {
        stem += &format!("-{images}-images");
    }
    stem
}

/// The images as the networks see them, with their labels.
fn pictures(dataset: &Dataset, network: &Model) -> Result<Vec<(RgbImage, usize)>, Failure> {
    let transform = network.transform(Crop::Own);
    let one = |sample: &Sample| -> Result<(RgbImage, usize), Failure> {
        Ok((transform.apply(&sample.decode()?), sample.label))
    };
    dataset.samples.iter().map(one).collect()
}

/// A hash of images and labels.
fn of_pictures(pictures: &[(RgbImage, usize)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (image, label) in pictures {
        hasher.update(&(*label as u64).to_le_bytes()).update(image.data());
    }
    hasher.finalize().to_string()
}

impl Compared {
    /// Of the baseline and the network that diverges, seed by seed.
    fn of([baseline, diverge]: [Vec<f64>; 2]) -> Self {
        let difference = OverSeeds::difference(&diverge, &baseline);
        Self { baseline: OverSeeds::of(baseline), diverge: OverSeeds::of(diverge), difference }
    }
}

impl Row {
    /// The accuracy of the network of that number, of `images` images, over the seeds.
    fn of(condition: Option<(Method, f64)>, counts: &[Count], seeds: &[u64], number: usize, images: usize) -> Self {
        let (method, eps) = condition.unzip();
        let accuracy = |kind: Kind| -> Vec<f64> {
            let of_seed = |seed: &u64| {
                let name = kind.network(*seed, number);
                let found =
                    counts.iter().find(|count| count.network == name && count.method.zip(count.eps) == condition);
                found.map_or(f64::NAN, |count| count.correct as f64 / images as f64)
            };
            seeds.iter().map(of_seed).collect()
        };
        Self { method, eps, accuracy: Compared::of([Kind::Baseline, Kind::Diverge].map(accuracy)) }
    }

    fn name(&self) -> String {
        match (self.method, self.eps) {
            (Some(method), Some(eps)) => format!("{} {eps}", method.name()),
            _ => "clean".to_owned(),
        }
    }
}

impl Document {
    fn to_text(&self) -> String {
        let mut text = format!(
            "{}, network {} of {}, {} seed(s), {} images attacked on a separately trained network: accuracy in %{}\n\n",
            self.model,
            self.network,
            self.network,
            self.seeds.len(),
            self.images,
            if self.seeds.len() > 1 { " [95 % over seeds]" } else { "" }
        );
        let mut line = |name: &str, cells: [String; 3]| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:24}")).collect();
            text += format!("{name:10}{cells}").trim_end();
            text.push('\n');
        };
        line("", ["baseline", "diverge", "difference"].map(String::from));
        for row in &self.rows {
            let Compared { baseline, diverge, difference } = &row.accuracy;
            line(&row.name(), [baseline, diverge, difference].map(percent));
        }
        let number = |over_seeds: &OverSeeds| match over_seeds.interval {
            Some([low, high]) => format!("{:.3} [{low:.3}, {high:.3}]", over_seeds.mean),
            None => format!("{:.3}", over_seeds.mean),
        };
        let Compared { baseline, diverge, difference } = &self.correlation;
        let [baseline, diverge, difference] = [baseline, diverge, difference].map(number);
        text += &format!(
            "\ncorrelation of its features with those of the networks before it, on clean images:\nbaseline {baseline}, diverge {diverge}, \
             difference {difference}\n"
        );
        text
    }

    /// A row for each network, seed and attack.
    fn to_csv(&self) -> Result<String, Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["seed", "network", "attack", "eps", "correct", "images"])?;
        for Count { seed, network, method, eps, correct } in &self.counts {
            let eps = eps.map_or(String::new(), |eps| eps.to_string());
            let [seed, correct, images] = [seed.to_string(), correct.to_string(), self.images.to_string()];
            writer.write_record([
                seed.as_str(),
                network,
                method.map_or("clean", Method::name),
                &eps,
                &correct,
                &images,
            ])?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

/// Accuracy at each ε, a series for each attack of each of the two networks; 0 is clean images.
fn figure(rows: &[Row], title: &str) -> Figure {
    let of = |method: Method, kind: &str, accuracy: &dyn Fn(&Compared) -> OverSeeds| {
        let of_method = rows.iter().filter(|row| row.method.is_none_or(|other| other == method));
        let point = |row: &Row| {
            let share = accuracy(&row.accuracy);
            let place = [row.eps.unwrap_or(0.0), 100.0 * share.mean];
            Point { place, text: format!("{}, {kind}: {} %", row.name(), percent(&share)) }
        };
        Series { name: format!("{}, {kind}", method.name()), points: of_method.map(point).collect() }
    };
    let both = |method| {
        [
            of(method, "baseline", &|compared| compared.baseline.clone()),
            of(method, "diverge", &|compared| compared.diverge.clone()),
        ]
    };
    let series: Vec<Series> = Method::ALL.into_iter().flat_map(both).collect();
    let quantities = [Quantity { name: "ε", unit: "" }, Quantity { name: "accuracy", unit: " %" }];
    points(&series, quantities, title)
}

/// What the figure is called.
fn title(model: &str, network: usize) -> String {
    format!("{model}, network {network}, on images attacked on another network")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure of docs/studies is that of the counts beside it; NETKIN_WRITE=1 draws it anew.
    #[test]
    fn other_options_have_files_of_their_own() {
        assert_eq!(stem(&EPS, None), "robustness");
        assert_eq!(stem(&EPS, Some(5)), "robustness-5-images");
        assert_eq!(stem(&[0.05, 0.1], Some(5)), "robustness-eps-0.05-0.1-5-images");
    }

    #[test]
    fn the_kept_study_is_drawn_from_its_counts() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/studies");
        let settings = std::fs::read_to_string(folder.join("diverge-settings.json")).unwrap();
        let settings: Value = serde_json::from_str(&settings).unwrap();
        let (model, last) =
            (settings["recipe"]["model"].as_str().unwrap(), settings["count"].as_u64().unwrap() as usize);
        let (mut counts, mut conditions, mut images) = (Vec::new(), Vec::new(), 0);
        for record in csv::Reader::from_path(folder.join("diverge-robustness.csv")).unwrap().deserialize() {
            let (seed, network, attack, eps, correct, all): (u64, String, String, Option<f64>, usize, usize) =
                record.unwrap();
            let method = Method::ALL.into_iter().find(|method| method.name() == attack);
            images = all;
            if !conditions.contains(&method.zip(eps)) {
                conditions.push(method.zip(eps));
            }
            counts.push(Count { seed, network, method, eps, correct });
        }
        let mut seeds: Vec<u64> = counts.iter().map(|count| count.seed).collect();
        seeds.dedup();
        let rows: Vec<Row> =
            conditions.iter().map(|condition| Row::of(*condition, &counts, &seeds, last, images)).collect();
        // docs/diverge.md has these numbers.
        assert_eq!(percent(&rows[0].accuracy.baseline), "84.03 [80.91, 87.16]");
        assert_eq!(percent(&rows[6].accuracy.diverge), "38.20 [21.53, 54.87]");
        let drawn = figure(&rows, &title(model, last)).to_svg();
        let path = folder.join("diverge-robustness.svg");
        if std::env::var_os("NETKIN_WRITE").is_some() {
            std::fs::write(&path, &drawn).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == drawn, "{} is not what its counts give; NETKIN_WRITE=1 draws it anew", path.display());
    }
}
