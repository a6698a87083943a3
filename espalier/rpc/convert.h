#pragma once

#include "espalier/rpc/federation.pb.h"
#include "espalier/rpc/messages.h"

// Between protobuf's messages and plain ones. from_proto() throws Refusal(kInvalid) for what no
// honest peer sends: absurd counts and strings. Private to rpc/.
namespace espalier::rpc {

inline constexpr size_t kMaxString = 512, kMaxConfig = 64 << 10, kSessionBytes = 16;

v1::CheckInRequest to_proto(const CheckInRequest& in);
CheckInRequest from_proto(const v1::CheckInRequest& in);
v1::CheckInReply to_proto(const CheckInReply& in);
CheckInReply from_proto(const v1::CheckInReply& in);
v1::AwaitRequest to_proto(const AwaitRequest& in);
AwaitRequest from_proto(const v1::AwaitRequest& in);
v1::AwaitReply to_proto(const AwaitReply& in);
AwaitReply from_proto(const v1::AwaitReply& in);
v1::FetchRequest to_proto(const FetchRequest& in);
FetchRequest from_proto(const v1::FetchRequest& in);
v1::PushOpen to_proto(const PushOpen& in);
PushOpen from_proto(const v1::PushOpen& in);
v1::PushReply to_proto(const PushReply& in);
PushReply from_proto(const v1::PushReply& in);
v1::ReportRequest to_proto(const ReportRequest& in);
ReportRequest from_proto(const v1::ReportRequest& in);
v1::ReportReply to_proto(const ReportReply& in);
ReportReply from_proto(const v1::ReportReply& in);

}  // namespace espalier::rpc
