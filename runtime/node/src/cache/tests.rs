//! Keeping, evicting, checking and finding again.

use super::*;

fn put(cache: &Arc<Cache>, name: &str, bytes: usize) -> Pinned {
    let temp = cache.temp_path();
    fs::write(&temp, vec![0; bytes]).expect("a file");
    cache.adopt(Kind::Blob, name, &temp, bytes as u64).expect("adopted")
}

#[test]
fn the_least_recently_used_entry_that_nobody_needs_goes_first() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    drop(put(&cache, "a", 40));
    let pinned = put(&cache, "b", 40);
    drop(cache.pin(Kind::Blob, "a").expect("a is there"));
    drop(put(&cache, "c", 40));
    assert!(cache.pin(Kind::Blob, "a").is_none(), "b is older but in use");
    assert!(pinned.path().exists());
    drop(pinned);
    drop(put(&cache, "d", 40));
    assert!(cache.pin(Kind::Blob, "b").is_none() && cache.pin(Kind::Blob, "c").is_some());
    assert!(!temp.path().join("blobs/b").exists());
}

#[test]
fn what_running_jobs_need_stays_even_above_the_limit() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 10).expect("a cache");
    let (first, second) = (put(&cache, "a", 40), put(&cache, "b", 40));
    assert!(first.path().exists() && second.path().exists());
}

#[test]
fn entries_are_found_again_and_half_made_ones_are_dropped() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    drop(put(&cache, "a", 40));
    fs::write(cache.temp_path(), "half").expect("a file");
    drop(cache);
    let cache = Cache::open(temp.path(), 100).expect("opened again");
    assert_eq!(cache.lock().bytes, 40);
    assert!(cache.pin(Kind::Blob, "a").is_some());
    assert_eq!(fs::read_dir(temp.path().join("temp")).expect("listed").count(), 0);
}

#[test]
fn an_entry_made_anew_survives_the_removal_of_its_predecessor() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    let before = put(&cache, "a", 40);
    let aside = cache.take_out(&mut cache.lock(), &(Kind::Blob, "a".into()));
    assert!(cache.pin(Kind::Blob, "a").is_none() && !before.path().exists());
    let again = put(&cache, "a", 30);
    remove_aside(aside);
    assert_eq!(fs::metadata(again.path()).expect("still there").len(), 30);
    drop(before);
    assert_eq!(cache.lock().entries[&(Kind::Blob, "a".into())].pins, 1, "another entry's pin");
    assert_eq!(cache.lock().bytes, 30);
}

#[test]
fn an_entry_whose_bytes_are_gone_is_forgotten() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    fs::remove_file(put(&cache, "a", 40).path()).expect("removed behind the cache's back");
    assert!(cache.pin(Kind::Blob, "a").is_none());
    assert_eq!(cache.lock().bytes, 0);
    assert!(put(&cache, "a", 40).path().exists());
}

#[test]
fn a_blob_is_checked_once_after_a_start_and_again_when_it_changed() {
    let temp = tempfile::tempdir().expect("a directory");
    // The SHA-256 of four zero bytes.
    let name = "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119";
    drop(put(&Cache::open(temp.path(), 100).expect("a cache"), name, 4));
    let cache = Cache::open(temp.path(), 100).expect("opened again");
    let found = cache.pin(Kind::Blob, name).expect("found");
    assert!(!cache.is_verified(&found), "it may have changed meanwhile");
    let found = cache.verify(found).expect("as it was");
    assert!(cache.is_verified(&found));
    fs::remove_file(found.path()).expect("removed");
    fs::write(found.path(), "evil").expect("another file of the same size");
    assert!(!cache.is_verified(&found));
    assert!(cache.verify(found).is_none());
    assert!(cache.pin(Kind::Blob, name).is_none(), "it is to be fetched again");
    assert!(cache.is_verified(&put(&cache, name, 4)), "what was just stored was just checked");
}

#[test]
fn what_was_used_last_before_a_restart_goes_last_after_it() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    for name in ["a", "b", "c"] {
        drop(put(&cache, name, 30));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(cache.pin(Kind::Blob, "a").expect("a is there"));
    drop(cache);
    let cache = Cache::open(temp.path(), 100).expect("opened again");
    drop(put(&cache, "d", 30));
    assert!(cache.pin(Kind::Blob, "b").is_none(), "b was not used for longest");
    assert!(cache.pin(Kind::Blob, "a").is_some() && cache.pin(Kind::Blob, "c").is_some());
}

fn put_tree(cache: &Arc<Cache>, tenant: &str, name: &str) -> Pinned {
    let view = cache.tenant_trees(tenant).expect("a directory");
    let view = view.file_name().expect("a name").to_string_lossy().into_owned();
    let tree = cache.temp_path();
    fs::create_dir(&tree).expect("a directory");
    fs::write(tree.join("file"), "12345").expect("a file");
    cache.adopt(Kind::Tree, &format!("{view}/{name}"), &tree, 5).expect("adopted")
}

#[test]
fn each_tenant_has_trees_of_its_own_that_others_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    let (one, other) = (put_tree(&cache, "one", "t"), put_tree(&cache, "other", "t"));
    let (here, there) =
        (cache.tenant_trees("one").expect("there"), cache.tenant_trees("other").expect("there"));
    assert!(here != there && one.path() == here.join("t") && other.path() == there.join("t"));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&here), mode(&temp.path().join("trees"))), (0o755, 0o755));
    assert_eq!((mode(&temp.path().join("code")), mode(&temp.path().join("blobs"))), (0o700, 0o700));
    drop((one, other));
    drop(cache);
    drop(Cache::open(temp.path(), 100).expect("opened again"));
    assert!(here.join("t").is_dir() && there.join("t").is_dir());
}

#[test]
fn a_tree_that_is_not_whole_any_more_is_dropped_at_the_start() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    let keys = ["whole", "cut", "unmarked"].map(|name| put_tree(&cache, "tenant", name).key.clone());
    let [whole, cut, unmarked] = &keys;
    let trees = cache.tenant_trees("tenant").expect("there");
    drop(put_tree(&cache, "gone", "gone"));
    let gone = cache.tenant_trees("gone").expect("there");
    drop(cache);
    fs::write(trees.join("cut/file"), "").expect("what a loss of power may leave");
    fs::remove_file(marks::mark(temp.path(), unmarked)).expect("removed");
    fs::remove_dir_all(gone.join("gone")).expect("removed");
    fs::create_dir(temp.path().join("trees/of-an-older-version")).expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("opened again");
    assert!(cache.pin(Kind::Tree, &whole.1).is_some());
    assert!(cache.pin(Kind::Tree, &cut.1).is_none() && cache.pin(Kind::Tree, &unmarked.1).is_none());
    assert_eq!(fs::read_dir(&trees).expect("listed").count(), 1);
    assert_eq!(fs::read_dir(temp.path().join("trees")).expect("listed").count(), 1);
    assert_eq!(fs::read_dir(temp.path().join("marks")).expect("listed").count(), 1);
    assert_eq!(cache.lock().bytes, 5);
}

#[tokio::test]
async fn two_makers_of_one_entry_take_turns() {
    let temp = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(temp.path(), 100).expect("a cache");
    let first = cache.flight(Kind::Blob, "a").await;
    let other = cache.flight(Kind::Blob, "b").await;
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), cache.flight(Kind::Blob, "a"));
    assert!(waiting.await.is_err(), "the second maker waits");
    drop((first, other));
    drop(cache.flight(Kind::Blob, "a").await);
}
