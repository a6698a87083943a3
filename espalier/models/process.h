#pragma once

namespace espalier::models {

// To be called once at the start of a program: one thread per BLAS and per operator (clients run in
// parallel instead), and a heap that keeps its pages.
void configure_process();
// To be called in every thread that uses a Trainer: one thread per operator, and denormal numbers
// count as 0.
void configure_thread();

}  // namespace espalier::models
