//! Integration tests, one binary: the real program and real sockets.

mod bench;
mod config;
mod credentials;
mod demo;
mod dialects;
mod fuzz;
mod gateway;
mod login;
mod quotas;
mod readme;
mod secrets;
mod security;
mod simulator;
mod support;
mod upstream;
mod wall;
mod wire;
