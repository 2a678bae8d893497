//! Small programs, each shows one use of fsrv.
