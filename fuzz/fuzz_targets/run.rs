//! What lies in a run folder beside the units, one behind the other with zero bytes between: run.json, the list of images, records of
//! networks, of a measure and of layers.
#![no_main]

use netkin::runs::{Manifest, RunFolder, Shard};
use netkin::similarity::features::kept::{LayerRecord, MeasureRecord};
use netkin::similarity::sat::Outcomes;

const FILES: [&str; 6] =
    ["run.json", "images.csv", "models/a.json", "models/b.json", "measures/a.json", "layers/a.json"];

netkin_fuzz::target!(|bytes| {
    let folder = netkin_fuzz::folder().join("run");
    let mut parts = bytes.split(|&byte| byte == 0);
    for name in FILES {
        netkin_fuzz::file(&format!("run/{name}"), parts.next().unwrap_or_default());
    }
    if let Ok(Some(list)) = Manifest::read(&folder) {
        list.fingerprint();
    }
    let Ok(run) = RunFolder::existing(&folder) else { return };
    for record in MeasureRecord::all(&run).unwrap_or_default() {
        record.matrix();
    }
    for record in LayerRecord::all(&run).unwrap_or_default() {
        let _ = (record.matrix(), record.groups());
    }
    if let Ok(outcomes) = Outcomes::open(&folder) {
        let _ = outcomes.plan(Shard::WHOLE);
        let _ = outcomes.collect(0.01);
        for (chunk, network) in
            (0..outcomes.chunks().min(3)).flat_map(|chunk| (0..outcomes.networks().len()).map(move |at| (chunk, at)))
        {
            let _ = outcomes.logits(chunk, network);
        }
    }
});
