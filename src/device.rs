//! Which Burn devices run, and whether they are there.

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
    #[error("the device {0:?} is not known; give flex, cuda:0 or vulkan:0 (any index), or cuda:all")]
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
    /// A device is named more than once.
    #[error("the device {0} is named twice; name each once")]
    Twice(DeviceName),
    /// There are several where one is wanted.
    #[error(
        "{0} are several devices, among which only `netkin sat` divides its work (`netkin bench` compares them); give one as --device"
    )]
    Several(DeviceNames),
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
        // Opening a device that is not there would end the program, so the backend is asked first.
        let found = self.found()?;
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) if index < found => Ok(Device::cuda(index)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) if index < found => Ok(Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
            _ => Err(DeviceError::Absent { device: self, found }),
        }
    }

    /// How many devices of its kind there are.
    fn found(self) -> Result<usize, DeviceError> {
        match self {
            Self::Flex => Ok(1),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).len()),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt { device: self, backend: "cuda" }),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(_) => Ok(Device::enumerate(burn::tensor::DeviceType::Vulkan).len()),
            #[cfg(not(feature = "vulkan"))]
            Self::Vulkan(_) => Err(DeviceError::NotBuilt { device: self, backend: "vulkan" }),
        }
    }
}

/// The devices of one command as they are named on the command line: one; several, `cuda:0,cuda:1`; or `cuda:all`, all of CUDA's
/// that this process sees. At least one, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNames(Vec<DeviceName>);

impl FromStr for DeviceNames {
    type Err = DeviceError;

    /// # Errors
    /// If a name means no device or stands there twice; with `cuda:all` also if there is none.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let mut names = Vec::new();
        for word in text.split(',') {
            let meant: Vec<DeviceName> = match word {
                "cuda:all" => {
                    let device = DeviceName::Cuda(0);
                    match device.found()? {
                        0 => return Err(DeviceError::Absent { device, found: 0 }),
                        found => (0..found).map(DeviceName::Cuda).collect(),
                    }
                }
                one => vec![one.parse()?],
            };
            for name in meant {
                if names.contains(&name) {
                    return Err(DeviceError::Twice(name));
                }
                names.push(name);
            }
        }
        Ok(Self(names))
    }
}

impl fmt::Display for DeviceNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(","))
    }
}

impl DeviceNames {
    /// All of them, in the order in which they were given.
    pub fn names(&self) -> &[DeviceName] {
        &self.0
    }

    /// The only one.
    ///
    /// # Errors
    /// If there are several.
    pub fn one(&self) -> Result<DeviceName, DeviceError> {
        match self.0[..] {
            [name] => Ok(name),
            _ => Err(DeviceError::Several(self.clone())),
        }
    }

    /// The only device itself.
    ///
    /// # Errors
    /// If there are several, or as [`DeviceName::open`].
    pub fn open(&self) -> Result<Device, DeviceError> {
        self.one()?.open()
    }

    /// All devices themselves, with their names.
    ///
    /// # Errors
    /// As [`DeviceName::open`].
    pub fn open_all(&self) -> Result<Vec<(DeviceName, Device)>, DeviceError> {
        self.0.iter().map(|&name| Ok((name, name.open()?))).collect()
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

    #[test]
    fn several_are_named_once_each() {
        let several: DeviceNames = "cuda:1,flex,cuda".parse().unwrap();
        assert_eq!(several.names(), [DeviceName::Cuda(1), DeviceName::Flex, DeviceName::Cuda(0)]);
        assert_eq!(several.to_string(), "cuda:1,flex,cuda:0");
        let refused = several.open().unwrap_err().to_string();
        assert!(refused.contains("cuda:1,flex,cuda:0") && refused.contains("netkin sat"), "{refused}");
        assert_eq!("flex".parse::<DeviceNames>().unwrap().one(), Ok(DeviceName::Flex));
        assert_eq!("flex,cpu".parse::<DeviceNames>(), Err(DeviceError::Twice(DeviceName::Flex)));
        assert_eq!("cuda:0,cuda".parse::<DeviceNames>(), Err(DeviceError::Twice(DeviceName::Cuda(0))));
        for (text, unknown) in [("", ""), ("cuda:0,", ""), ("flex:all", "flex:all"), ("cuda:0:all", "cuda:0:all")] {
            assert_eq!(text.parse::<DeviceNames>(), Err(DeviceError::Unknown(unknown.into())), "{text:?}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn all_devices_of_a_backend_that_is_not_built_in_are_refused() {
        let refused = "flex,cuda:all".parse::<DeviceNames>().unwrap_err();
        assert!(refused.to_string().contains("--features cuda"), "{refused}");
    }
}
