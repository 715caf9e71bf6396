//! A container profile that forbids io_uring, as a seccomp filter on one thread: the cause and the way
//! out are named.
#![allow(unsafe_code, reason = "a seccomp filter is installed by prctl")]

use sds_ring::{Loop, LoopOptions, RingError};

const SYS_IO_URING_REGISTER: u32 = 427;
const SYS_IO_URING_SETUP: u32 = 425;

/// Makes one system call fail with `errno` on the calling thread, for good.
fn forbid(call: u32, errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: u16::try_from(code).expect("16 bits"), jt: 0, jf: 0, k };
    let jump = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).expect("16 bits"),
        jt,
        jf,
        k,
    };
    // The system call's number stands at offset 0 of `seccomp_data`.
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        jump(call, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: both calls change this thread only; the program outlives the call that copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

fn loop_without(call: u32, errno: i32) -> Result<Loop, RingError> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                forbid(call, errno);
                // A loop stays on its thread; only the error is of interest, or that it ran.
                Loop::new(&LoopOptions::default()).map(|made| {
                    assert!(made.run().is_ok());
                })
            })
            .join()
            .expect("no panic")
    })
    .and_then(|()| Loop::new(&LoopOptions::default()))
}

#[test]
fn a_profile_that_forbids_set_up_is_named() {
    let error = loop_without(SYS_IO_URING_SETUP, libc::EPERM).expect_err("forbidden");
    assert!(matches!(error, RingError::Profile), "{error}");
    assert!(error.to_string().contains("seccomp"), "{error}");
}

#[test]
fn a_kernel_without_io_uring_is_named() {
    let error = loop_without(SYS_IO_URING_SETUP, libc::ENOSYS).expect_err("not there");
    assert!(matches!(error, RingError::Missing), "{error}");
}

#[test]
fn too_little_memory_that_may_be_locked_is_named() {
    let error = loop_without(SYS_IO_URING_SETUP, libc::ENOMEM).expect_err("no memory");
    assert!(matches!(error, RingError::Memlock { .. }) && error.to_string().contains("ulimit"), "{error}");
}

#[test]
fn registration_that_is_forbidden_only_costs_speed() {
    let made = loop_without(SYS_IO_URING_REGISTER, libc::EPERM).expect("works all the same");
    drop(made);
}
