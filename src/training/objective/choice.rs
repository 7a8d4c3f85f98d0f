//! From a recipe to its objective.

use netkin_weights::ModelSpec;

use super::adversarial::{self, Adversarial};
use super::distillation::{self, Distillation, Kind};
use super::diverge::{self, Diverge};
use super::{CrossEntropy, Objective};
use crate::model::Model;
use crate::training::{Recipe, TrainingError};

/// The networks that the objective of a recipe needs beside the student, in the order in which [`of`] wants them.
///
/// # Errors
/// If the recipe has two objectives, names no teacher where it wants one, or names what is no network.
pub fn networks(recipe: &Recipe) -> Result<Vec<ModelSpec>, TrainingError> {
    let names: &[String] = match Wanted::of(recipe)? {
        Wanted::Labels | Wanted::Adversarial(_) => &[],
        Wanted::Distillation(options) => {
            options.check()?;
            std::slice::from_ref(&options.teacher)
        }
        Wanted::Diverge(options) => &options.against,
    };
    names.iter().map(|name| Ok(name.parse::<ModelSpec>()?)).collect()
}

/// The objective of a recipe for a student that tells so many classes apart. `models` are those of [`networks`], loaded where the
/// student trains.
///
/// # Errors
/// If the recipe has two objectives, an option of its objective is out of its range, or a teacher tells another number of classes apart.
///
/// # Panics
/// If the models are not as many as [`networks`].
pub fn of(recipe: &Recipe, classes: usize, models: Vec<Model>) -> Result<Box<dyn Objective>, TrainingError> {
    let wanted = networks(recipe)?.len();
    assert_eq!(models.len(), wanted, "an objective gets the networks that it asked for");
    match Wanted::of(recipe)? {
        Wanted::Labels => Ok(Box::new(CrossEntropy)),
        Wanted::Distillation(options) => {
            let teacher = models.into_iter().next().ok_or(TrainingError::NoTeacher)?;
            Ok(Box::new(Distillation::new(teacher, options.clone(), classes)?))
        }
        Wanted::Adversarial(options) => {
            // An attack leads away from one label.
            let mixed = [
                ("augmentation.mixup", recipe.augmentation.mixup),
                ("augmentation.cutmix", recipe.augmentation.cutmix),
            ];
            if let Some((option, value)) = mixed.into_iter().find(|(_, value)| *value != 0.0) {
                let range = "0 with [adversarial], whose attacks want images of one class";
                return Err(TrainingError::Option { option, value: value.to_string(), range });
            }
            Ok(Box::new(Adversarial::new(*options)?))
        }
        Wanted::Diverge(options) => Ok(Box::new(Diverge::new(options.alpha, models)?)),
    }
}

/// What a recipe asks for.
enum Wanted<'a> {
    Labels,
    Distillation(&'a distillation::Options),
    Adversarial(&'a adversarial::Options),
    Diverge(&'a diverge::Options),
}

impl<'a> Wanted<'a> {
    fn of(recipe: &'a Recipe) -> Result<Self, TrainingError> {
        let distillation = recipe.distillation.as_ref().filter(|options| options.kind != Kind::None);
        let tables = [
            distillation.map(|options| ("distillation", Self::Distillation(options))),
            recipe.adversarial.as_ref().map(|options| ("adversarial", Self::Adversarial(options))),
            recipe.diverge.as_ref().map(|options| ("diverge", Self::Diverge(options))),
        ];
        let mut tables = tables.into_iter().flatten();
        match (tables.next(), tables.next()) {
            (None, _) => Ok(Self::Labels),
            (Some((_, wanted)), None) => Ok(wanted),
            (Some((first, _)), Some((second, _))) => Err(TrainingError::Objectives { first, second }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn recipe(tables: &str) -> Recipe {
        Recipe::parse("test", &format!("model = \"demo_resnet\"\n{tables}"), &[]).unwrap()
    }

    #[test]
    fn a_recipe_has_one_objective() {
        assert!(matches!(of(&recipe(""), 10, Vec::new()).unwrap().settings(), Value::Null));
        let adversarial = of(&recipe("[adversarial]\neps = 0.1"), 10, Vec::new()).unwrap().settings();
        assert_eq!(adversarial["attack"]["eps"], 0.1);
        let diverge = recipe("[diverge]\nagainst = [\"demo_mixer\", \"demo_gmlp\"]");
        let names: Vec<String> = networks(&diverge).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["demo_mixer", "demo_gmlp"]);
        let none = recipe("[distillation]\nkind = \"none\"\n[diverge]\nalpha = 0.1");
        assert_eq!(of(&none, 10, Vec::new()).unwrap().settings()["objective"], "diverge");
        let both = recipe("[adversarial]\neps = 0.1\n[diverge]\nalpha = 0.1");
        let said = networks(&both).unwrap_err().to_string();
        assert!(said.contains("this one has [adversarial] and [diverge]"), "{said}");
    }

    /// DeiT's hard distillation is that of its published command, the soft one that of its paper.
    #[test]
    fn shipped_recipes_ask_for_what_they_are_called() {
        let shipped = |name: &str| Recipe::shipped(name).unwrap().unwrap();
        for (name, kind, alpha, temperature) in
            [("deit-tiny-hard-distilled", Kind::Hard, 0.5, 1.0), ("deit-tiny-distilled", Kind::Soft, 0.1, 3.0)]
        {
            let recipe = shipped(name);
            let options = recipe.distillation.clone().unwrap();
            assert_eq!((options.kind, options.alpha, options.temperature), (kind, alpha, temperature), "{name}");
            assert_eq!(options.reduction, distillation::Reduction::Deit);
            assert_eq!(networks(&recipe).unwrap()[0].name(), "regnety_160.deit_in1k");
            // All else is DeiT's without a teacher.
            let plain = Recipe { model: recipe.model.clone(), distillation: None, ..recipe };
            assert_eq!(Recipe { model: plain.model.clone(), ..shipped("deit-tiny") }, plain);
        }
        assert!(shipped("fashion-mnist-distilled").distillation.is_some());
        assert_eq!(shipped("robust").adversarial.unwrap().eps, 0.1);
        let diverge = shipped("diverge");
        assert_eq!(
            (diverge.diverge.unwrap().alpha, diverge.optimizer.lr, diverge.optimizer.nesterov),
            (0.05, 0.1, false)
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let mixed = recipe("[augmentation]\nmixup = 0.8\n[adversarial]\neps = 0.1");
        let said = of(&mixed, 10, Vec::new()).err().unwrap().to_string();
        assert!(said.contains("augmentation.mixup is 0.8"), "{said}");
        let unknown = recipe("[distillation]\nteacher = \"resnet5O\"");
        assert!(networks(&unknown).unwrap_err().to_string().contains("resnet50"));
    }
}
