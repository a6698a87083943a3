#pragma once

#include <string>

namespace espalier::live {

// What a server of ours answers to GET `url` ("http://127.0.0.1:9464/status.json"), within ten
// seconds and 64 MiB. `token`: sent as a bearer's, when it is not empty. Throws Error when nobody
// is there or the answer is not 200.
std::string http_get(const std::string& url, const std::string& token = {});

}  // namespace espalier::live
