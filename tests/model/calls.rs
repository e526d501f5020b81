//! The calls of the stores, and the system calls of which they are made.

use crate::state::Held;

/// What a process is to do, in one call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `get_or_set`
    GetOrSet,
    /// `get_or_set` with a closure that fails.
    Fail,
    /// `set` of a file.
    Set,
    /// `get` of a tree, and the lease held for a while.
    Get,
    /// `replace` of a tree.
    Replace,
    /// `remove`
    Remove,
    /// `clear`, without the sweep that ends it.
    Clear,
    /// `sweep`
    Sweep,
    /// Nothing: a process less.
    Idle,
}

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    pub held: Held,
    pub waits: bool,
    pub creates: bool,
}

/// The next system call of a process, and in which function it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    Begin,
    Done,

    // lock::exclusive, lock::shared, lock::try_exclusive
    Open(Want),
    Flock(Want),
    Check(Want),

    // lock::exclusive_or
    TryOpen,
    TryFlock,
    TryCheck,
    WaitShared,
    CheckShared,
    LookShared,
    UnlockShared,
    QueueOpen,
    QueueFlock,
    QueueCheck,
    LookFree,

    // KeyLock::drop
    DropLook,
    DropName,
    DropUnlink,
    DropUnlock,
    /// Only in a mutant.
    DropUnlinkLate,

    // staging::create_locked, and what follows it
    StageCreate,
    StageFlock,
    StageLook,
    StageMkdir,
    Compute,
    SealSidecar,
    // StagedFile::drop, StagedDir::drop
    UnstageAside,
    UnstageDelete,
    UnstageSidecar,
    UnstageLock,
    UnstageUnlock,

    // KVFileStore
    FileGet,
    FileGetLocked,
    FileRename,
    FilePublished,
    FileIsThere,
    FileUnlink,

    // dir_store::lease::take
    TakeLook,
    TakeSidecar,
    TakeAgain,
    Leased,
    // presence::refuse_strangers
    StrangerLook,
    StrangerLock {
        again: bool,
    },
    StrangerSidecar {
        again: bool,
    },
    StrangerOpen,
    StrangerSame,
    // KVDirStore::get_or_set, publish::has_tree
    MadeLook,
    HasTree,
    HasSidecar,
    // publish::place_tree, publish::replace_tree
    PlaceSidecar,
    PlaceTree,
    ReplaceSidecar,
    Exchange,
    ReplaceAside,
    ReplacePlace,
    // StagedDir::hand_over_lock, KeyLock::replaced_by
    HandUnlock,
    HandShared,
    HandLook,
    HandRename,
    HandDropOld,
    /// Only in a mutant.
    ConvertUnlock,
    ConvertShared,
    DeleteDead,
    // publish::remove_tree
    RemoveLook,
    RemoveAside,
    /// Only in a mutant.
    RemoveRest,
    RemoveSidecar,
    RemoveDelete,

    // collect::sweep_into
    SweepList,
    SweepOpen,
    SweepFlock,
    SweepCheck,
    SweepAside,
    SweepDelete,
    SweepSidecar,
    SweepUnlink,
    SweepUnlock,
    SweepWalk,
    SweepNeeded,
    SweepNeededLocked,
}

/// What a function that was called returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Came {
    Locked,
    Busy,
    Absent,
    /// Somebody else made it, and it was seen under a shared lock.
    MadeShared,
    /// Somebody else made it, and it was seen under none.
    MadeFree,
    Leased,
    Yes,
    No,
    Done,
}

/// Where a function that was called returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    Nothing,
    EndOfCall,
    // files
    FileLocked,
    SetLocked,
    UnlinkLocked,
    // trees
    TakeLocked,
    TakeDropped,
    TakeTidied,
    TakeAbsent,
    GetTaken,
    SetTaken,
    SetAgain,
    TreeLocked,
    SetHasTree,
    ReplaceTried,
    ReplaceLocked,
    PublishHasTree,
    Published,
    PublishTaken,
    HandedOver,
    NotHandedOver,
    RemoveLocked,
    RemoveHasTree,
    RemoveDropped,
    // both
    Staged,
    UnstagedFailed,
    SweepLocked,
}
