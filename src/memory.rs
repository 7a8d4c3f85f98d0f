//! How much memory a process, or a device, holds.

use burn::tensor::Device;

/// The memory of this process that is in RAM now, in bytes; Linux tells, other systems are not asked.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most memory of this process that was ever in RAM, in bytes; Linux tells, other systems are not asked.
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// The memory that programs can still take before the system runs out of it, in bytes; Linux tells, other systems are not asked.
pub fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// What the allocator of a GPU has taken from the device, in bytes. It keeps what is freed, so this is also the most that
/// was needed. None on the CPU, whose tensors are ordinary memory of the process.
pub fn reserved(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved).filter(|&bytes| bytes > 0)
}

fn status(name: &str) -> Option<u64> {
    field("/proc/self/status", name)
}

/// A number of kibibytes that the system tells, in bytes.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_not_below_what_is_held() {
        // Linux counts by thread and adds up now and then, so that one may be a little behind the other.
        let held = resident().unwrap();
        assert!(held > 1 << 20 && peak().unwrap() >= held / 10 * 9);
        assert!(available().unwrap() > 1 << 20);
    }
}
