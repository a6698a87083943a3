#include "espalier/study/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <utility>

#include "espalier/base/error.h"

namespace espalier::study {

namespace {

// Those by which a program is told to end; a child answers to them however this process does.
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

int status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// The environment without what makes a process a rank of an MPI job: a child of a rank is none,
// and ESPALIER_MPI=0 says so whatever the starter's variables are called.
std::vector<char*> own_environment() {
  static char no_rank[] = "ESPALIER_MPI=0";
  std::vector<char*> kept = {no_rank};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("OMPI_") && !text.starts_with("PMIX_") && !text.starts_with("PMI_") &&
        !text.starts_with("ESPALIER_MPI="))
      kept.push_back(*variable);
  }
  kept.push_back(nullptr);
  return kept;
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, const std::filesystem::path& log) {
  ESPALIER_CHECK(!arguments.empty());
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::vector<char*> environment = own_environment();
  const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (output < 0) fail("study", "cannot write ", log.string(), ": ", std::strerror(errno));
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const pid_t parent = ::getpid();
  // A signal for the child that comes before its exec waits: our handlers would swallow it.
  sigset_t signals, before;
  ::sigemptyset(&signals);
  for (const int number : kSignals) ::sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, &before);
  process_ = ::fork();
  if (process_ == 0) {
    // Only what is safe between fork and exec.
    ::setpgid(0, 0);
    for (const int number : kSignals) ::signal(number, SIG_DFL);
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it ended in the meantime
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(nothing, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::execve(argv[0], argv.data(), environment.data());
    constexpr char kMessage[] = "cannot start the program\n";
    static_cast<void>(!::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1));
    ::_exit(127);
  }
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::close(output);
  ::close(nothing);
  if (process_ < 0) fail("study", "cannot start ", arguments[0], ": ", std::strerror(error));
}

Child::Child(Child&& other) noexcept
    : process_(std::exchange(other.process_, -1)), status_(other.status_) {}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(process_, other.process_);
  std::swap(status_, other.status_);
  return *this;
}

Child::~Child() {
  if (process_ < 0) return;
  ::kill(process_, SIGKILL);
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<int> Child::poll() {
  if (process_ < 0) return status_;
  int status = 0;
  const pid_t ended = ::waitpid(process_, &status, WNOHANG);
  if (ended == process_) {
    process_ = -1;
    status_ = status_of(status);
  }
  return status_;
}

void Child::signal(int number) const {
  if (process_ > 0) ::kill(process_, number);
}

}  // namespace espalier::study
