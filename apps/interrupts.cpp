#include "apps/interrupts.h"

#include <unistd.h>

#include <cstring>

namespace espalier::apps {

namespace {

volatile std::sig_atomic_t g_stop = 0;  // the only way a signal handler can talk
const char* g_heard = "";

void stop_soon(int) {
  g_stop = 1;
  // A round may take long, and an exploration longer; a person should see that they were heard.
  const ssize_t written = ::write(STDERR_FILENO, g_heard, std::strlen(g_heard));
  static_cast<void>(written);
}

}  // namespace

void catch_as_interrupt(int signal) {
  struct sigaction action {};
  action.sa_handler = stop_soon;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(signal, &action, nullptr);
}

const volatile std::sig_atomic_t* catch_interrupts(const char* heard) {
  g_heard = heard;
  catch_as_interrupt(SIGINT);
  catch_as_interrupt(SIGTERM);
  return &g_stop;
}

}  // namespace espalier::apps
