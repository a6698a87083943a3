#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <system_error>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/study/study_config.h"

// For tests only: a folder that removes itself, with a base configuration and studies of it.
namespace espalier::study {

class StudyFiles {
 public:
  StudyFiles() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() /
            concat("espalier_study_", ::getpid(), "_", counter++);
    write("base.toml",
          "rounds = 4\n[data]\nname = \"synthetic\"\n[model]\nname = \"mlp\"\nhidden = [16]\n"
          "[train]\nlr = 0.1\n[strategy]\nname = \"fedavg\"\nclients_per_round = 2\n");
  }
  ~StudyFiles() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  StudyFiles(const StudyFiles&) = delete;
  StudyFiles& operator=(const StudyFiles&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    make_folder((path_ / name).parent_path());
    write_text_file_atomic(path_ / name, text);
  }
  // A study of base.toml with these further lines.
  Study read(const std::string& text, const std::vector<std::string>& only = {},
             const std::vector<std::string>& assignments = {}) const {
    write("studies/test.toml", "base = \"../base.toml\"\n" + text);
    return read_study(path_ / "studies/test.toml", only, assignments);
  }
  // What is wrong with it; empty: nothing.
  std::string error(const std::string& text,
                    const std::vector<std::string>& assignments = {}) const {
    try {
      read(text, {}, assignments);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  std::filesystem::path path_;
};

}  // namespace espalier::study
