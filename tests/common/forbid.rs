//! System calls that fail from now on, for this thread and those it starts (seccomp); all the rest works as always.

/// The call that `mmap` makes.
#[cfg(target_pointer_width = "64")]
pub(crate) const MMAP: libc::c_long = libc::SYS_mmap;
#[cfg(target_pointer_width = "32")]
pub(crate) const MMAP: libc::c_long = libc::SYS_mmap2;

/// Makes a system call fail with `ENOMEM`.
pub(crate) fn call(number: libc::c_long) {
    install(&mut [load(NUMBER), if_is(number, 0, 1), refuse(libc::ENOMEM), ALLOW]);
}

/// Makes the system one that knows no guarded pages, as Linux is before 6.13.
pub(crate) fn guards() {
    // `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE`
    const ADVICE: [libc::c_long; 2] = [102, 103];
    install(&mut [
        load(NUMBER),
        if_is(libc::SYS_madvise, 0, 4),
        load(THIRD_ARGUMENT),
        if_is(ADVICE[0], 1, 0),
        if_is(ADVICE[1], 0, 1),
        refuse(libc::EINVAL),
        ALLOW,
    ]);
}

/// Where the call's number is in what a filter looks at.
const NUMBER: u32 = 0;
/// Where the lower half of the third argument is: behind number, architecture, instruction pointer and two arguments.
const THIRD_ARGUMENT: u32 = 32 + if cfg!(target_endian = "big") { 4 } else { 0 };

const ALLOW: libc::sock_filter = instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

const fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Skips so many instructions if what was loaded is `value`, and so many if not.
fn if_is(value: libc::c_long, skip: u8, skip_else: u8) -> libc::sock_filter {
    let value = u32::try_from(value).expect("a small number");
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, skip_else, value)
}

fn refuse(error: libc::c_int) -> libc::sock_filter {
    let error = u32::try_from(error).expect("a small number");
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error)
}

fn install(filter: &mut [libc::sock_filter]) {
    let len = u16::try_from(filter.len()).expect("a short filter");
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: a filter of the stated length, read during the call.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(installed, 0, "this system does not let a process filter its own calls");
}
