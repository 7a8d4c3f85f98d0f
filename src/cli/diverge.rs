//! `netkin diverge`: networks that are trained away from each other, and what they are to be compared with.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{Common, print, print_json};
use super::study_options::{StudyOptions, Trainees, again_later, load};
use super::{Failure, Outcome, stop, values};
use crate::runs::write_atomically;
use crate::training::Recipe;
use crate::training::objective::diverge::Diverge;
use crate::training::objective::{CrossEntropy, distillation};
use crate::training::study::Study;

/// Train networks of one architecture away from each other (Zhen et al., ECCV 2022), and others in the usual way beside them
///
/// For each seed: a network, and further ones of which each is trained to have other features than all before it; the same ones again
/// without that; and one more, on which `netkin robustness` makes adversarial images. What is done is kept: the same command goes on where
/// it was stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The architecture [default: the recipe's]
    model: Option<String>,
    #[command(flatten)]
    study: StudyOptions,
    /// The recipe that the networks are trained by, a name or a file; its [diverge] alpha weighs how alike features may be
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "diverge")]
    recipe: String,
    /// Networks that diverge, for each seed
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = values::positive)]
    count: usize,
    /// The first COUNT test images are kept for `netkin robustness`
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = values::positive)]
    attack_images: usize,
}

/// What a folder of such networks holds; `netkin robustness` reads it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    pub netkin: String,
    pub model: String,
    pub alpha: f64,
    /// Networks that diverge, for each seed.
    pub count: usize,
    pub seeds: Vec<u64>,
    pub networks: Vec<Network>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Network {
    /// Of its folder.
    pub name: String,
    pub kind: Kind,
    pub seed: u64,
    /// Its place among those that are trained one after another, from 1; 0 for the one that is attacked.
    pub number: usize,
    /// On the test images, 0 to 1.
    pub accuracy: f64,
}

/// What a network is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Trained away from those of lower numbers; number 1 has none.
    Diverge,
    /// From the same seed, and in the usual way.
    Baseline,
    /// The one that is attacked.
    Source,
}

impl Kind {
    /// The name of the network of that number and seed. The first one has nothing to diverge from, and is its own baseline.
    pub fn network(self, seed: u64, number: usize) -> String {
        match (self, number) {
            (Self::Source, _) => format!("seed{seed}-source"),
            (Self::Diverge, _) | (Self::Baseline, 1) => format!("seed{seed}-net{number}"),
            (Self::Baseline, _) => format!("seed{seed}-baseline{number}"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Diverge => "diverge",
            Self::Baseline => "baseline",
            Self::Source => "source",
        }
    }
}

/// What [`Study::settings`] calls these studies.
pub const STUDY: &str = "diverge";
/// The file with the [`Document`].
pub const FILE: &str = "diverge.json";
/// Seeds of the networks of one seed of the study lie so close.
const MOST: usize = 100;

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        again_later(|| self.study(common))
    }

    fn study(&self, common: &Common) -> Result<Outcome, Failure> {
        if !(2..MOST).contains(&self.count) {
            return Err(format!(
                "--count {} is out of range; it takes 2 networks to diverge, and up to {}",
                self.count,
                MOST - 1
            )
            .into());
        }
        let recipe = self.study.recipe(&self.recipe, self.model.as_deref())?;
        recipe.check()?;
        self.check_objective(&recipe)?;
        let options = recipe.diverge.clone().unwrap_or_default();
        if !options.against.is_empty() {
            return Err(format!(
                "the recipe {} names networks as diverge.against, which are the study's own here; leave that out",
                self.recipe
            )
            .into());
        }
        let usual = Recipe { diverge: None, ..recipe.clone() };
        let images = self.study.open()?;
        let settings = json!({
            "study": STUDY,
            "recipe": recipe.settings(),
            "count": self.count,
            "training data": images.training.fingerprint(),
            "test data": images.testing.fingerprint(),
        });
        let device = common.device.open()?;
        images.check(&recipe, &device)?;
        let study = Study::open(&self.study.out, &settings)?;
        images.write_tests(&study, self.attack_images)?;
        let seeds = self.study.seeds();
        let trainees = Trainees::new(&study, &images, 2 * self.count * seeds.len(), device, stop::flag(), common);
        let mut networks = Vec::new();
        for &seed in &seeds {
            let mut wanted = vec![(Kind::Source, 0)];
            wanted.extend((1..=self.count).map(|number| (Kind::Diverge, number)));
            wanted.extend((2..=self.count).map(|number| (Kind::Baseline, number)));
            for (kind, number) in wanted {
                let name = kind.network(seed, number);
                // Networks of one number begin from the same weights, diverging or not.
                let own_seed = seed.wrapping_mul(MOST as u64).wrapping_add(number as u64) & (i64::MAX as u64);
                let finished = if kind == Kind::Diverge && number > 1 {
                    let earlier = (1..number)
                        .map(|earlier| load(&study, &recipe.model, &kind.network(seed, earlier), common))
                        .collect::<Result<Vec<_>, _>>()?;
                    let objective = Diverge::new(options.alpha, earlier)?;
                    trainees.train(&name, &Recipe { seed: own_seed, ..recipe.clone() }, &objective)?
                } else {
                    trainees.train(&name, &Recipe { seed: own_seed, ..usual.clone() }, &CrossEntropy)?
                };
                let Some(finished) = finished else { return Ok(Outcome::TryAgain) };
                networks.push(Network { name, kind, seed, number, accuracy: finished.accuracy() });
            }
        }
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION").to_owned(),
            model: recipe.model.clone(),
            alpha: options.alpha,
            count: self.count,
            seeds,
            networks,
        };
        write_atomically(&self.study.out.join(FILE), &serde_json::to_vec_pretty(&document)?)?;
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_csv()?)?;
        }
        common.note(&format!("`netkin robustness {}` attacks them", self.study.out.display()));
        Ok(trainees.outcome())
    }

    /// Refuses a recipe that trains for something else, which no network of the study would learn.
    fn check_objective(&self, recipe: &Recipe) -> Result<(), Failure> {
        let other = match &recipe.distillation {
            Some(options) if options.kind != distillation::Kind::None => "distillation",
            _ if recipe.adversarial.is_some() => "adversarial",
            _ => return Ok(()),
        };
        Err(format!(
            "the recipe {} has [{other}], and `netkin diverge` trains with [diverge] alone; leave [{other}] out, or train one network by \
             `netkin train`",
            self.recipe
        )
        .into())
    }
}

impl Document {
    fn to_csv(&self) -> Result<String, Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["network", "kind", "seed", "number", "accuracy"])?;
        for Network { name, kind, seed, number, accuracy } in &self.networks {
            let [seed, number] = [seed.to_string(), number.to_string()];
            writer.write_record([name.as_str(), kind.word(), &seed, &number, &format!("{accuracy:.4}")])?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}
