//! Compiles in the unit tests that need root.

fn main() {
    println!("cargo:rustc-cfg=privileged");
    println!("cargo:rerun-if-changed=build.rs");
}
