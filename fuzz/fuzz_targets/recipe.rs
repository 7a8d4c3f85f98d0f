//! Recipes of training, and overrides behind zero bytes.
#![no_main]

use netkin::training::Recipe;

netkin_fuzz::target!(|bytes| {
    let mut parts = bytes.split(|&byte| byte == 0).map(netkin_fuzz::text);
    let text = parts.next().unwrap_or_default();
    // A command line is no longer.
    let overrides: Vec<String> = parts.filter(|part| part.len() < 1 << 10).take(100).collect();
    let Ok(recipe) = Recipe::parse("x.toml", &text, &overrides) else { return };
    let again = Recipe::parse("x.toml", &recipe.to_toml(), &[]).expect("what was written is read");
    assert_eq!(values(&again), values(&recipe));
    if recipe.check().is_ok() {
        let _ = (recipe.settings(), recipe.rate_rule(), recipe.model_config(10));
    }
});

/// What is written of a recipe, without what was said of it while it was read.
fn values(recipe: &Recipe) -> Vec<String> {
    recipe.to_toml().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}
