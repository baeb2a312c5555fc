//! Directory trees as one blob: a plain tar of files, directories and symbolic links that stay inside
//! the tree. Who submits a job packs it, the node unpacks it.

mod link;
mod pack;
mod unpack;

pub use self::{
    pack::{PackError, Tree},
    unpack::{ENTRIES_MAX, TreeError, tree_size, unpack},
};
