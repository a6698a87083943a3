#pragma once

namespace espalier::torch {

// libtorch's share of models/process.h: one thread per BLAS and per operator.
void configure_process();
void configure_thread();

}  // namespace espalier::torch
