//! `wasi:filesystem` 0.2: the engine's implementation with the disk limit around it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    FsPerms, OpenMode, WasiView as _,
    filesystem::{Descriptor, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::{
            clocks::wall_clock::Datetime,
            filesystem::types::{
                Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
                DirectoryEntryStream, ErrorCode, Filesize, Host as FilesystemHost, HostDescriptor,
                HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
            },
        },
    },
};

use super::{
    Host,
    clock::START,
    component_stream::LimitedStream,
    files::{Files, Handle},
    stdin::FileInput,
};
use crate::{disk::FileId, fault::Halt, memory::Held};

/// The linker's name for [`LimitedFilesView`].
pub(crate) struct LimitedFiles;

impl HasData for LimitedFiles {
    type Data<'a> = LimitedFilesView<'a>;
}

/// Sorted listings of the directory streams that are open, and the memory that they hold.
pub(crate) type OpenListings = HashMap<u32, (VecDeque<DirectoryEntry>, Held)>;

/// The file system of one component for the length of one call.
pub(crate) struct LimitedFilesView<'a> {
    wasi: WasiFilesystemCtxView<'a>,
    files: &'a mut Files,
    listings: &'a mut OpenListings,
}

impl<'a> LimitedFilesView<'a> {
    pub(crate) fn new(host: &'a mut Host) -> Self {
        let (wasi, files, listings) = host.p1.parts();
        let view = wasi.ctx();
        Self {
            wasi: WasiFilesystemCtxView { ctx: view.ctx.filesystem(), table: view.table },
            files,
            listings,
        }
    }

    fn writable_dir(&self, fd: &Resource<Descriptor>) -> bool {
        matches!(self.wasi.table.get(fd), Ok(Descriptor::Dir(dir)) if dir.perms == FsPerms::ReadWrite)
    }

    /// The identity of an open file that the disk limit follows and that this handle may write.
    fn followed(&self, fd: &Resource<Descriptor>) -> Option<FileId> {
        match self.files.get(fd.rep()) {
            Handle::File { id, writable: true, .. } => Some(id),
            _ => None,
        }
    }

    async fn stat_name(
        &mut self,
        dir: &Resource<Descriptor>,
        flags: PathFlags,
        path: &str,
    ) -> Option<(DescriptorStat, FileId)> {
        let stat = self.wasi.stat_at(borrow(dir), flags, path.to_owned()).await.ok()?;
        let hash = self.wasi.metadata_hash_at(borrow(dir), flags, path.to_owned()).await.ok()?;
        Some((stat, FileId(0, hash.lower)))
    }

    async fn settle(&mut self, fd: &Resource<Descriptor>, id: FileId) {
        if let Ok(stat) = self.wasi.stat(borrow(fd)).await {
            self.files.disk().settle(id, stat.size);
        }
    }

    fn name_added(&mut self) -> FsResult<()> {
        self.files.disk().entry_added().map_err(trap)
    }

    fn name_removed(&mut self, (stat, id): (DescriptorStat, FileId)) {
        if stat.type_ == DescriptorType::Directory || stat.link_count <= 1 {
            self.files.forget_inode(id.1);
        }
        let file = (stat.type_ == DescriptorType::RegularFile).then_some((id, stat.size, stat.link_count));
        self.files.disk().entry_removed(file);
    }

    /// What the guest sees of a file's metadata; `is_own` tells its own files from inputs, which may
    /// have further names in the node's cache.
    fn shown(&self, mut stat: DescriptorStat, is_own: bool) -> DescriptorStat {
        if self.files.reproducible() {
            let beginning = Some(Datetime { seconds: START.as_secs(), nanoseconds: 0 });
            stat.data_access_timestamp = beginning;
            stat.data_modification_timestamp = beginning;
            stat.status_change_timestamp = beginning;
            if stat.type_ == DescriptorType::Directory {
                stat.size = 0;
            }
            if stat.type_ == DescriptorType::Directory || !is_own {
                stat.link_count = 1;
            }
        }
        stat
    }

    fn shown_hash(&mut self, hash: MetadataHashValue) -> MetadataHashValue {
        if !self.files.reproducible() {
            return hash;
        }
        MetadataHashValue { lower: self.files.shown_inode(hash.lower), upper: 0 }
    }

    /// Puts a stream under the disk limit in the place of the engine's own on a followed file.
    fn limit_stream(
        &mut self,
        fd: &Resource<Descriptor>,
        stream: Resource<DynOutputStream>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Some(id) = self.followed(fd) else { return Ok(stream) };
        let Descriptor::File(file) = self.wasi.table.get(fd)? else { return Ok(stream) };
        let file = Arc::clone(&file.file);
        self.wasi.table.delete(stream)?;
        let traffic = Arc::clone(self.files.traffic());
        let limited = LimitedStream::new(file, self.files.shared_disk(), traffic, id, position);
        let limited: DynOutputStream = Box::new(limited);
        Ok(self.wasi.table.push(limited)?)
    }
}

/// The engine's functions take handles by value, and borrowed ones are not consumed.
fn borrow(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

fn trap(halt: Halt) -> FsError {
    FsError::trap(halt)
}

macro_rules! pass_on_async {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {$(
        async fn $name(&mut self, $($arg: $ty),*) -> $result {
            self.wasi.$name($($arg),*).await
        }
    )*};
}

impl FilesystemHost for LimitedFilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.wasi.filesystem_error_code(error)
    }
}

impl HostDescriptor for LimitedFilesView<'_> {
    pass_on_async! {
        advise(fd: Resource<Descriptor>, offset: Filesize, len: Filesize, advice: Advice) -> FsResult<()>;
        sync_data(fd: Resource<Descriptor>) -> FsResult<()>;
        get_flags(fd: Resource<Descriptor>) -> FsResult<DescriptorFlags>;
        get_type(fd: Resource<Descriptor>) -> FsResult<DescriptorType>;
        set_times(fd: Resource<Descriptor>, atim: NewTimestamp, mtim: NewTimestamp) -> FsResult<()>;
        sync(fd: Resource<Descriptor>) -> FsResult<()>;
        set_times_at(
            dir: Resource<Descriptor>, flags: PathFlags, path: String, atim: NewTimestamp, mtim: NewTimestamp
        ) -> FsResult<()>;
        readlink_at(dir: Resource<Descriptor>, path: String) -> FsResult<String>;
        is_same_object(a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool>;
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        len: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        let (bytes, is_end) = self.wasi.read(fd, len, offset).await?;
        self.files.traffic().note_read(bytes.len());
        Ok((bytes, is_end))
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let Some(id) = self.followed(&fd) else { return self.wasi.set_size(fd, size).await };
        self.files.disk().resize(id, size).map_err(trap)?;
        let result = self.wasi.set_size(borrow(&fd), size).await;
        if result.is_err() {
            self.settle(&fd, id).await;
        }
        result
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        let Some(id) = self.followed(&fd) else { return self.wasi.write(fd, bytes, offset).await };
        let len = bytes.len() as u64;
        if len > 0 {
            self.files.disk().extend(id, offset.saturating_add(len)).map_err(trap)?;
        }
        let result = self.wasi.write(borrow(&fd), bytes, offset).await;
        if !matches!(result, Ok(written) if written == len) {
            self.settle(&fd, id).await;
        }
        self.files.traffic().note_written(*result.as_ref().unwrap_or(&0) as usize);
        result
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let stream = self.wasi.read_directory(fd).await?;
        let mut entries = Vec::new();
        while let Some(entry) = self.wasi.read_directory_entry(Resource::new_borrow(stream.rep())).await? {
            entries.push(entry);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let bytes = entries.iter().map(|entry| size_of::<DirectoryEntry>() + entry.name.capacity()).sum();
        let Some(held) = self.files.memory().hold(bytes) else {
            self.wasi.table.delete(stream)?;
            return Err(ErrorCode::InsufficientMemory.into());
        };
        self.listings.insert(stream.rep(), (entries.into(), held));
        Ok(stream)
    }

    async fn create_directory_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.wasi.create_directory_at(dir, path).await?;
        self.name_added()
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        let is_own = matches!(self.files.get(fd.rep()), Handle::File { .. });
        let stat = self.wasi.stat(fd).await?;
        Ok(self.shown(stat, is_own))
    }

    async fn stat_at(
        &mut self,
        dir: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let is_own = self.writable_dir(&dir);
        let stat = self.wasi.stat_at(dir, flags, path).await?;
        Ok(self.shown(stat, is_own))
    }

    async fn link_at(
        &mut self,
        old_dir: Resource<Descriptor>,
        flags: PathFlags,
        old: String,
        new_dir: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        self.wasi.link_at(old_dir, flags, old, new_dir, new).await?;
        self.name_added()
    }

    async fn symlink_at(&mut self, dir: Resource<Descriptor>, old: String, new: String) -> FsResult<()> {
        self.wasi.symlink_at(dir, old, new).await?;
        self.name_added()
    }

    async fn open_at(
        &mut self,
        dir: Resource<Descriptor>,
        lookup: PathFlags,
        path: String,
        oflags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if !self.writable_dir(&dir) {
            return self.wasi.open_at(dir, lookup, path, oflags, flags).await;
        }
        let changes = oflags.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE);
        let before = if changes { self.stat_name(&dir, lookup, &path).await } else { None };
        let fd = self.wasi.open_at(dir, lookup, path, oflags, flags).await?;
        if before.is_none() && oflags.contains(OpenFlags::CREATE) {
            self.name_added()?;
        }
        if let Descriptor::File(file) = self.wasi.table.get(&fd)? {
            let writable = file.open_mode.contains(OpenMode::WRITE);
            let stat = self.wasi.stat(borrow(&fd)).await?;
            let id = FileId(0, self.wasi.metadata_hash(borrow(&fd)).await?.lower);
            let size_before = before.map_or(stat.size, |(before, _)| before.size);
            self.files.disk().opened(id, size_before, stat.size);
            self.files.insert(fd.rep(), Handle::File { id, append: false, writable });
        }
        Ok(fd)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        let number = fd.rep();
        HostDescriptor::drop(&mut self.wasi, fd)?;
        self.files.remove(number);
        Ok(())
    }

    async fn remove_directory_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        let stat = self.stat_name(&dir, PathFlags::empty(), &path).await;
        self.wasi.remove_directory_at(dir, path).await?;
        match stat {
            Some(stat) => self.name_removed(stat),
            None => self.files.disk().entry_removed(None),
        }
        Ok(())
    }

    async fn rename_at(
        &mut self,
        old_dir: Resource<Descriptor>,
        old: String,
        new_dir: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        let flags = PathFlags::empty();
        let source = self.stat_name(&old_dir, flags, &old).await;
        let target = self.stat_name(&new_dir, flags, &new).await;
        self.wasi.rename_at(old_dir, old, new_dir, new).await?;
        // Renaming one name of a file to another of its names changes nothing.
        if let Some(target) = target
            && source.is_none_or(|(_, id)| id != target.1)
        {
            self.name_removed(target);
        }
        Ok(())
    }

    async fn unlink_file_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        let stat = self.stat_name(&dir, PathFlags::empty(), &path).await;
        self.wasi.unlink_file_at(dir, path).await?;
        if let Some(stat) = stat {
            self.name_removed(stat);
        }
        Ok(())
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let stream = self.wasi.read_via_stream(borrow(&fd), offset)?;
        let Descriptor::File(file) = self.wasi.table.get(&fd)? else { return Ok(stream) };
        let file = Arc::clone(&file.file);
        self.wasi.table.delete(stream)?;
        let input: DynInputStream = Box::new(FileInput::at(file, offset, Arc::clone(self.files.traffic())));
        Ok(self.wasi.table.push(input)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.wasi.write_via_stream(borrow(&fd), offset)?;
        self.limit_stream(&fd, stream, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.wasi.append_via_stream(borrow(&fd))?;
        self.limit_stream(&fd, stream, None)
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        let hash = self.wasi.metadata_hash(fd).await?;
        Ok(self.shown_hash(hash))
    }

    async fn metadata_hash_at(
        &mut self,
        dir: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let hash = self.wasi.metadata_hash_at(dir, flags, path).await?;
        Ok(self.shown_hash(hash))
    }
}

impl HostDirectoryEntryStream for LimitedFilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        Ok(self.listings.get_mut(&stream.rep()).and_then(|(entries, _)| entries.pop_front()))
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.listings.remove(&stream.rep());
        HostDirectoryEntryStream::drop(&mut self.wasi, stream)
    }
}
