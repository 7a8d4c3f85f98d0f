//! From a network to a file.

use std::collections::HashMap;
use std::path::Path;

use burn_store::{ModuleSnapshot, bridge};
use netkin_architectures::Network;
use safetensors::tensor::{Dtype, TensorView};

use crate::files::write_whole;
use crate::precision::{Flaw, convert};
use crate::{Error, Precision};

/// Writes a network's parameters and running statistics as safetensors under timm's keys, each number rounded to
/// `precision`. timm loads the file strictly, but for `num_batches_tracked`, which is not written.
///
/// The file appears whole or not at all: see [`write_whole`](crate::files::write_whole). The
/// same network gives the same bytes. A network that was training is to be given as its `valid()`, which brings the
/// running statistics up to date.
///
/// # Errors
/// [`Error::NotFinite`], [`Error::Overflow`], [`Error::Device`] or [`Error::Io`].
pub fn save(network: &Network, path: &Path, precision: Precision) -> Result<(), Error> {
    let bytes = encode(network, &path.display().to_string(), precision)?;
    write_whole(path, &bytes).map_err(|error| Error::Io { action: "write", path: path.into(), error })
}

/// What [`save`] writes.
///
/// # Errors
/// [`Error::NotFinite`], [`Error::Overflow`] or [`Error::Device`].
pub fn to_safetensors(network: &Network, precision: Precision) -> Result<Vec<u8>, Error> {
    encode(network, "the network", precision)
}

fn encode(network: &Network, label: &str, precision: Precision) -> Result<Vec<u8>, Error> {
    let tensors = network
        .collect(None, None, true)
        .into_iter()
        .map(|tensor| {
            let key = tensor.name.clone();
            let unreadable = |reason: String| Error::Device { tensor: key.clone(), reason };
            let data = bridge::into_data(tensor).map_err(|error| unreadable(error.to_string()))?;
            let kind = Precision::of(data.dtype())
                .ok_or_else(|| unreadable(format!("{:?} is no floating point type", data.dtype())))?;
            let shape: Vec<usize> = data.shape().iter().copied().collect();
            match convert(data.as_bytes(), kind, &shape, precision) {
                Ok(data) => Ok((key, shape, data)),
                Err(Flaw::NotFinite) => Err(Error::NotFinite { file: label.into(), tensor: key }),
                Err(Flaw::Overflow) => Err(Error::Overflow { file: label.into(), tensor: key, precision }),
            }
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let views = tensors.iter().map(|(key, shape, data)| {
        let view = TensorView::new(dtype(precision), shape.clone(), data.as_bytes());
        (key, view.expect("a tensor has as many bytes as its shape and type ask for"))
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata));
    Ok(bytes.expect("keys are unique and shapes small"))
}

fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::F64 => Dtype::F64,
        Precision::F16 => Dtype::F16,
        Precision::BF16 => Dtype::BF16,
    }
}
