#include "espalier/data/child_process.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::data {

void run_program(const std::vector<std::string>& arguments, const std::filesystem::path& folder) {
  ESPALIER_CHECK(!arguments.empty());
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ESPALIER_CHECK(posix_spawn_file_actions_init(&actions) == 0);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  pid_t child = 0;
  const int started = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (started == ENOENT)
    fail("data/fetch", "the program '", arguments[0], "' is needed and was not found; install it");
  if (started != 0) fail("data/fetch", "cannot run ", arguments[0], ": ", std::strerror(started));

  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      fail("data/fetch", "cannot wait for ", arguments[0], ": ", std::strerror(errno));
  }
  if (WIFSIGNALED(status))
    fail("data/fetch", arguments[0], " was ended by signal ", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0)
    fail("data/fetch", arguments[0], " ended with status ", WEXITSTATUS(status));
}

}  // namespace espalier::data
