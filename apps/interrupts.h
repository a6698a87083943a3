#pragma once

#include <csignal>

namespace espalier::apps {

// From now on the first Ctrl-C (or SIGTERM) makes what is returned nonzero and says `heard`, a
// string that lives for ever; a second one ends the program at once.
const volatile std::sig_atomic_t* catch_interrupts(const char* heard);
// The same for another signal.
void catch_as_interrupt(int signal);

}  // namespace espalier::apps
