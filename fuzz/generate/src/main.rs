//! Writes the seeds that the fuzz targets start from: small good and bad examples of everything that
//! they read. Run it at the top of `fuzz` and commit what it writes.

mod framing;
mod modules;
mod protocol;
mod trees;

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (target, seeds) in [
        ("module_inspection", modules::seeds()),
        ("tree_unpacking", trees::seeds()),
        ("node_protocol", protocol::seeds()),
        ("executor_framing", framing::seeds()),
    ] {
        let dir = Path::new("seeds").join(target);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        for (name, bytes) in &seeds {
            fs::write(dir.join(name), bytes)?;
        }
        println!(
            "{target}: {} seeds, {} bytes",
            seeds.len(),
            seeds.iter().map(|seed| seed.1.len()).sum::<usize>()
        );
    }
    Ok(())
}
