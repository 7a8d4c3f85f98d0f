//! Which Burn device runs, and whether it is there.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// A device as it is named on the command line: `flex` (the CPU; also `cpu`), `cuda:0`, `vulkan:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU, by Burn's Flex backend.
    Flex,
    /// The CUDA device of that index.
    Cuda(usize),
    /// The Vulkan device of that index.
    Vulkan(usize),
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name means no device.
    #[error("the device {0:?} is not known; give flex, cuda:0 or vulkan:0 (any index)")]
    Unknown(String),
    /// The program was built without the backend.
    #[error(
        "this netkin was built without {backend}, so {device} cannot be used; build it with `cargo build --release --features {backend}`, or give --device flex"
    )]
    NotBuilt {
        /// The device asked for.
        device: DeviceName,
        /// The feature that is missing.
        backend: &'static str,
    },
    /// The backend finds no such device.
    #[error("there is no {device} on this machine ({found} found); give another index or --device flex")]
    Absent {
        /// The device asked for.
        device: DeviceName,
        /// How many there are.
        found: usize,
    },
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        let (backend, index) = text.split_once(':').unwrap_or((text, "0"));
        let index = index.parse().map_err(|_| unknown())?;
        match backend {
            "flex" | "cpu" if index == 0 => Ok(Self::Flex),
            "cuda" => Ok(Self::Cuda(index)),
            "vulkan" => Ok(Self::Vulkan(index)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
        }
    }
}

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// If the program was built without its backend, or it is not there.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => self.probe(burn::tensor::DeviceType::Cuda, || Device::cuda(index)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt { device: self, backend: "cuda" }),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) => self.probe(burn::tensor::DeviceType::Vulkan, || {
                Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))
            }),
            #[cfg(not(feature = "vulkan"))]
            Self::Vulkan(_) => Err(DeviceError::NotBuilt { device: self, backend: "vulkan" }),
        }
    }

    /// Opening a device that is not there would end the program, so the backend is asked first.
    #[cfg(any(feature = "cuda", feature = "vulkan"))]
    fn probe(self, kind: burn::tensor::DeviceType, open: impl FnOnce() -> Device) -> Result<Device, DeviceError> {
        let found = Device::enumerate(kind).len();
        let (Self::Cuda(index) | Self::Vulkan(index)) = self else {
            return Ok(open());
        };
        if index < found { Ok(open()) } else { Err(DeviceError::Absent { device: self, found }) }
    }
}

/// Whether a device is the CPU, with which nothing needs to be compiled, tuned or transferred.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// How results name a device: `flex` for the CPU, else what the backend calls it.
pub fn name(device: &Device) -> String {
    if is_cpu(device) { DeviceName::Flex.to_string() } else { format!("{device:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_known_with_and_without_gradients() {
        assert!(is_cpu(&Device::flex()) && is_cpu(&Device::flex().autodiff()));
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["flex", "cuda:0", "cuda:3", "vulkan:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cpu".parse(), Ok(DeviceName::Flex));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["gpu", "cuda:x", "flex:1", ""] {
            assert_eq!(name.parse::<DeviceName>(), Err(DeviceError::Unknown(name.into())));
        }
    }
}
