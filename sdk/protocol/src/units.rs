//! Sizes and durations as people write them: `256MiB`, `1.5GB`, `5s`, `2h30m`.

/// A text that is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct InvalidUnit {
    detail: String,
}

fn invalid(text: &str, example: &str) -> InvalidUnit {
    InvalidUnit { detail: format!("{text:?} is not understood; write {example}") }
}

/// Parses a size in bytes. Units: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1,024) and `kB`, `KB`,
/// `MB`, `GB`, `TB` (powers of 1,000); without a unit, bytes.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidUnit> {
    const EXAMPLE: &str = "a size such as 256MiB, 8GiB or 4096";
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(invalid(text, EXAMPLE)),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| invalid(text, EXAMPLE));
    }
    let value = number.parse::<f64>().map_err(|_| invalid(text, EXAMPLE))? * factor as f64;
    if value.is_finite() && value < 9e18 { Ok(value.round() as u64) } else { Err(invalid(text, EXAMPLE)) }
}

/// Parses a duration into milliseconds. Units: `ms`, `s`, `m`, `h`, `d`, which may follow each
/// other (`1h30m`); without a unit, seconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, InvalidUnit> {
    const EXAMPLE: &str = "a duration such as 500ms, 30s, 5m or 1h30m";
    let mut rest = text.trim();
    let mut total_ms = 0f64;
    if rest.is_empty() {
        return Err(invalid(text, EXAMPLE));
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let factor = match unit {
            "ms" => 1.0,
            "" | "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return Err(invalid(text, EXAMPLE)),
        };
        total_ms += number.parse::<f64>().map_err(|_| invalid(text, EXAMPLE))? * factor;
        rest = next;
    }
    if total_ms.is_finite() && total_ms < 9e15 {
        Ok(total_ms.round() as u64)
    } else {
        Err(invalid(text, EXAMPLE))
    }
}

/// Writes a size with a binary unit, to about three digits.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Writes a duration given in microseconds, to about three digits.
pub fn format_duration_us(us: u64) -> String {
    let seconds = us as f64 / 1e6;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{seconds:.2} s"),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", us / 60_000_000, us / 1_000_000 % 60),
        _ => format!("{}h{:02}m", us / 3_600_000_000, us / 60_000_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in ["", "MiB", "-1", "1XB", "99999999999TiB", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse_duration_ms("500ms"), Ok(500));
        assert_eq!(parse_duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(parse_duration_ms("2.5"), Ok(2_500));
        for bad in ["", "s", "5 parsecs", "-5s", "1h-3m"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(format_duration_us(90_000_000), "1m30s");
    }
}
