//! Matrices as CSV files.
#![no_main]

use std::path::Path;

use netkin::analysis::read::{Asymmetry, complete, parse, square};

netkin_fuzz::target!(|bytes| {
    let text = netkin_fuzz::text(bytes);
    let path = Path::new("x.csv");
    for asymmetry in [Asymmetry::Refuse, Asymmetry::Mean] {
        if let Ok(matrix) = parse(&text, path, asymmetry) {
            // Files hold nine decimals, so that what is read of them is the same from the first time on.
            let written = matrix.to_csv();
            assert_eq!(parse(&written, path, asymmetry).expect("what was written is read").to_csv(), written);
        }
    }
    // Of hundreds of networks the fewest to leave out take minutes to find.
    if let Ok(matrix) = square(&netkin_fuzz::file("x.csv", bytes))
        && matrix.names.len() <= 64
    {
        let (rest, _) = complete(matrix);
        assert!(rest.values.iter().all(|value| !value.is_nan()));
    }
});
