//! Brings a backup back to life, so that nothing from after it can do harm.

use std::{fs::File, io, path::Path};

use anyhow::{Context, ensure};
use gristmill_protocol::Timestamp;

use crate::{
    backup::{Manifest, beside, clear, publish, read_manifest, unmark},
    checksums::{self, FILE as SUMS},
    data_dir::{DataDir, make_private},
    store::sqlite::Snapshot,
};

/// Hours since 1970: two restores of one backup, hours apart, begin different generations.
fn generation_at(now: Timestamp) -> u32 {
    u32::try_from(now.as_second() / 3_600).unwrap_or(0)
}

/// Restores a backup into a data directory that is empty or not there yet, and begins a new
/// generation: fences rise above all that were ever granted, and leases from before are over, so that
/// nodes which still work under them are told `lease_lost`. Every file is checked on its way. The
/// directory appears all at once, complete and durable. Returns the manifest and the number of the new
/// generation. Blocks for file work.
pub async fn restore(backup: &Path, data: &DataDir, now: Timestamp) -> anyhow::Result<(Manifest, u32)> {
    let manifest = read_manifest(backup)?;
    let is_empty = match std::fs::read_dir(data.path()) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", data.path().display())),
    };
    ensure!(
        is_empty,
        "{} is not empty: a backup is restored into a directory of its own",
        data.path().display()
    );
    let partial = beside(data.path(), "restoring")?;
    let lock = clear(&partial)?;
    copy_all(backup, &partial, &manifest)?;
    let mut snapshot = Snapshot::open(&DataDir::new(&partial).database())
        .await
        .context("the backup's database cannot be used")?;
    snapshot.check().await?;
    let generation = snapshot.begin_generation(generation_at(now), now).await?;
    snapshot.close().await?;
    File::open(DataDir::new(&partial).database())?.sync_all()?;
    unmark(&partial, lock)?;
    publish(&partial, data.path())?;
    Ok((manifest, generation))
}

fn copy_all(backup: &Path, to: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let (sums, _) = checksums::digest_of(&backup.join(SUMS)).context("the list of files cannot be read")?;
    ensure!(sums == manifest.sums, "{SUMS} is damaged: it does not have the digest in the manifest");
    let mut files = 0;
    for line in checksums::lines(&backup.join(SUMS))? {
        let (expected, path) = line?;
        let target = to.join(&path);
        if let Some(above) = target.parent() {
            make_private(above)?;
        }
        let copied = || -> io::Result<_> {
            let mut hashing = checksums::Hashing::new(File::create_new(&target)?);
            checksums::copy(&mut File::open(backup.join(&path))?, &mut hashing)?;
            let (file, found, _) = hashing.finish();
            file.sync_all()?;
            Ok(found)
        };
        let found = copied().with_context(|| format!("failed to restore {}", path.display()))?;
        ensure!(found == expected, "{} is damaged: it does not have its digest", path.display());
        files += 1;
    }
    ensure!(files == manifest.files, "{SUMS} does not go with the manifest");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_leave_fences_that_fit_into_the_numbers_of_json() {
        let century: Timestamp = "2126-01-01T00:00:00Z".parse().expect("a time");
        assert!(u64::from(generation_at(century)) << 32 < 1 << 53);
    }
}
