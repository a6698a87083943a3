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

int status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// The environment without what makes a process a rank of an MPI job: a child of a rank is none.
std::vector<char*> own_environment() {
  std::vector<char*> kept;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("OMPI_") && !text.starts_with("PMIX_") && !text.starts_with("PMI_"))
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
  process_ = ::fork();
  if (process_ == 0) {
    // Only what is safe between fork and exec.
    ::setpgid(0, 0);
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
