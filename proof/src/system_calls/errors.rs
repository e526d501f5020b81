//! Which errors a call can give, and which calls are let off.

use super::trace::Call;

/// The errors that this call can give, or why none is tried.
pub(super) fn errors_of(call: &Call) -> Result<&'static [&'static str], &'static str> {
    let has = |flag: &str| call.line.contains(flag);
    Ok(match call.name.as_str() {
        "open" | "openat" if has("O_CREAT") => &[
            "ENOSPC", "EIO", "EACCES", "EMFILE", "EINTR", "EDQUOT", "EROFS",
        ],
        "open" | "openat" => &["EIO", "EACCES", "EMFILE", "ENFILE", "EINTR", "ENOMEM"],
        "openat2" => &[
            "EIO", "EACCES", "EMFILE", "EINTR", "ENOMEM", "ENOSYS", "EXDEV",
        ],
        "write" | "pwrite64" => &["ENOSPC", "EIO", "EDQUOT", "EINTR", "EFBIG"],
        "copy_file_range" => &["ENOSPC", "EIO", "EDQUOT", "EINTR", "EXDEV", "EOPNOTSUPP"],
        "fdatasync" | "fsync" | "syncfs" => &["EIO", "ENOSPC", "EDQUOT", "EINTR"],
        "renameat2" if has("RENAME_EXCHANGE") => {
            &["EINVAL", "EXDEV", "ENOSYS", "ENOSPC", "EIO", "EACCES"]
        }
        "rename" | "renameat" | "renameat2" => &["ENOSPC", "EIO", "EACCES", "EDQUOT", "EROFS"],
        "linkat" | "symlink" | "symlinkat" => &["ENOSPC", "EIO", "EACCES", "EDQUOT"],
        "mkdir" | "mkdirat" => &["ENOSPC", "EIO", "EACCES", "EDQUOT", "EROFS"],
        "unlink" | "unlinkat" | "rmdir" => &["EIO", "EACCES", "EROFS", "EBUSY"],
        "flock" => &["EINTR", "ENOLCK", "EIO"],
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => &["EIO", "EACCES", "ENOMEM"],
        "getdents64" => &["EIO", "EINTR"],
        "read" | "pread64" => &["EIO", "EINTR"],
        "chmod" | "fchmod" | "fchmodat" => &["EIO", "EPERM", "EROFS"],
        "fgetxattr" | "fsetxattr" | "fremovexattr" => &["EIO", "EACCES", "ENOSPC", "EOPNOTSUPP"],
        "utimensat" => &["EIO", "EACCES", "EPERM", "EROFS"],
        "ftruncate" | "lseek" | "fstatfs" => &["EIO"],
        "faccessat" | "faccessat2" | "access" => &["EIO", "EROFS"],
        "getrandom" => &["ENOSYS", "EINTR"],
        "readlink" | "readlinkat" | "getcwd" => &["EIO", "EACCES"],
        "clone" | "clone3" | "vfork" | "fork" => &["EAGAIN", "ENOMEM"],
        "fcntl" if has("F_DUPFD") => &["EMFILE"],
        "mmap" if has("MAP_STACK") => &["ENOMEM"],
        "pipe2" | "socketpair" => &["EMFILE", "ENFILE"],
        name => return Err(why_excluded(name)),
    })
}

fn why_excluded(name: &str) -> &'static str {
    match name {
        "close" | "munmap" => "what is not closed or unmapped stays so, which no system does",
        "mmap" | "mremap" | "brk" => "memory: without it a Rust program ends by an abort",
        "mprotect" | "madvise" | "prctl" | "rseq" | "set_robust_list" | "gettid" | "arch_prctl" => {
            "the threads library's own"
        }
        "futex" | "sched_yield" | "sched_getaffinity" => "waiting between threads",
        "exit" | "exit_group" | "execve" => "it does not come back",
        "rt_sigaction" | "rt_sigprocmask" | "rt_sigreturn" | "sigaltstack" => "signal handlers",
        "wait4" | "waitid" | "poll" | "pidfd_open" | "recvfrom" | "recvmsg" | "sendto" | "dup2" => {
            "how std starts and awaits a child"
        }
        "getpid" | "getuid" | "geteuid" | "getgid" | "umask" | "uname" | "clock_gettime"
        | "fcntl" => "it cannot fail",
        _ => "no error is known for it",
    }
}

/// Whether a call is one without which nothing may be told to be durable.
pub(super) fn is_barrier(call: &Call) -> bool {
    matches!(call.name.as_str(), "fdatasync" | "fsync" | "syncfs")
}

/// Whether a call may be one of those that put things in order, so that its failure leaves something
/// for a sweep.
pub(super) fn may_put_in_order(call: &Call, many_files: bool) -> bool {
    match call.name.as_str() {
        "unlink" | "unlinkat" | "rmdir" => true,
        "openat" | "openat2" => many_files && call.line.contains("O_DIRECTORY"),
        "rename" | "renameat" | "renameat2" | "newfstatat" | "statx" | "fstat" | "getdents64" => {
            many_files
        }
        _ => false,
    }
}
