//! What families do to files of other times: tensors of any shape under the names that they look for. Whatever comes of it has as
//! many numbers as its shape.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};
use netkin_architectures::{Checkpoint, registry};

const NAMES: [&str; 34] = [
    "pos_embed",
    "cls_token",
    "mask_token",
    "patch_embed.proj.weight",
    "blocks.0.gamma_1",
    "encoder.module.pos_embed",
    "visual.trunk.blocks.0.norm1.weight",
    "visual.trunk.stem.0.weight",
    "visual.trunk.pos_embed",
    "visual.head.proj.weight",
    "inner_pos",
    "outer_pos",
    "pixel_pos",
    "patch_pos",
    "layers.0.blocks.0.attn.relative_position_bias_table",
    "layers.3.blocks.1.attn.relative_position_bias_table",
    "layers.0.downsample.reduction.weight",
    "layers.18446744073709551615.downsample.norm.bias",
    "cls_attn_blocks.0.attn.qkv.weight",
    "cls_attn_blocks.1.attn.qkv.bias",
    "classifier.0.weight",
    "classifier.3.weight",
    "downsample_layers.1.0.weight",
    "stages.0.0.grn.gamma",
    "stages.1.0.mlp.fc1.weight",
    "network.0.1.layer_scale_1",
    "network.18446744073709551615.proj.weight",
    "stages.2.blocks.0.token_mixer.weight",
    "pools.18446744073709551615.conv.weight",
    "blocks.0.norm1.alpha",
    "level3.project.0.weight",
    "level3.tree1.tree1.conv1.weight",
    "classy_state_dict.base_model.model.trunk._feature_blocks.conv1.weight",
    "head.weight",
];
/// Sides that are likely to be asked for, and those that are likely to break something.
const AXES: [usize; 20] =
    [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 49, 64, 169, 197, 224, 768, 1 << 20, 1 << 30, (1 << 30) - 1, 1 << 60];
/// Tensors of more numbers are converted, and not read.
const MOST_READ: usize = 1 << 16;

fn shape(input: &mut Unstructured) -> libfuzzer_sys::arbitrary::Result<Vec<usize>> {
    let axes = input.int_in_range(0..=4)?;
    (0..axes).map(|_| Ok(*input.choose(&AXES)?)).collect()
}

netkin_fuzz::target!(|bytes| {
    let mut input = Unstructured::new(bytes);
    let Ok(index) = input.choose_index(registry::all().len()) else { return };
    let mut file = BTreeMap::new();
    while let (false, Ok(&name)) = (input.is_empty(), input.choose(&NAMES)) {
        let Ok(shape) = shape(&mut input) else { break };
        // No file has more numbers than can be counted.
        if shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis)).is_some_and(|count| count < 1 << 40) {
            file.insert(name.to_owned(), shape);
        }
        let _ = bool::arbitrary(&mut input);
    }
    let mut checkpoint = Checkpoint::new(file.clone());
    registry::all()[index].config.convert(&mut checkpoint);
    let count = |shape: &[usize]| shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis));
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        let is_small = |shape: Option<usize>| shape.is_some_and(|count| count <= MOST_READ);
        let from = checkpoint.origins(&name).into_iter().all(|origin| is_small(count(&file[origin])));
        let shape = checkpoint.shape(&name).expect("a tensor that is there");
        if from && is_small(count(shape)) {
            let read = |origin: &str| Ok::<_, ()>(vec![0.5; count(&file[origin]).expect("few numbers")]);
            let values = checkpoint.values(&name, read).expect("nothing fails");
            assert_eq!(Some(values.len()), count(shape), "{name} of {}", registry::all()[index].name);
        }
    }
});
