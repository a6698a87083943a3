#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier::study {

// A program that runs beside this one and does not outlive it: the system kills it when this
// process ends, however that ends. It has a process group of its own, so that Ctrl-C in a terminal
// reaches it through signal() only. Start it from the main thread: "this process" is, for the
// system, the thread that forked.
class Child {
 public:
  // Standard output is thrown away, standard error goes to `log`, which begins anew. Throws Error
  // when it cannot be started.
  Child(const std::vector<std::string>& arguments, const std::filesystem::path& log);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  // Kills it when it still runs.
  ~Child();

  // The status with which it has ended, 128 + number when a signal ended it; nullopt while it runs.
  std::optional<int> poll();
  void signal(int number) const;

 private:
  pid_t process_ = -1;  // -1: nothing runs any more
  std::optional<int> status_;
};

}  // namespace espalier::study
