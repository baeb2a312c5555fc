//! The file rules of a child: Landlock, see landlock(7).

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};

/// Rules are written for this version; an older kernel enforces those that it knows.
const WRITTEN_FOR: ABI = ABI::V6;

/// Forbids this thread, and those it starts, every file that lies in none of these directories,
/// everything but reading in `readable`, to run programs or make devices anywhere, TCP, and signals
/// to others. The answer is the version of the rules that hold.
pub(super) fn allow_only(readable: &[OwnedFd], writable: &[OwnedFd]) -> Result<u32, String> {
    match restrict(readable, writable) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel enforces none".to_owned())
        }
        Ok(status) => Ok(match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        }),
        Err(error) => Err(error.to_string()),
    }
}

fn restrict(readable: &[OwnedFd], writable: &[OwnedFd]) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WRITTEN_FOR))?
        .handle_access(AccessNet::from_all(WRITTEN_FOR))?
        .scope(Scope::from_all(WRITTEN_FOR))?
        .create()?;
    for directory in readable {
        rules = rules.add_rule(PathBeneath::new(directory, reading()))?;
    }
    for directory in writable {
        rules = rules.add_rule(PathBeneath::new(directory, writing()))?;
    }
    rules.restrict_self()
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

fn writing() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::IoctlDev;
    AccessFs::from_all(WRITTEN_FOR) & !never
}
