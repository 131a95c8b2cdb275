// NCCL as far as NcclCommunicator calls it. A collective runs when it is at the head of every
// rank's stream; a message when it is at the head of its sender's and its receiver's, so that ranks
// which wait for each other in a circle never end, as on a GPU.
#include <algorithm>
#include <condition_variable>
#include <cstring>

#include "kernels/error.h"
#include "tests/nccl/model_state.h"

namespace {

using namespace fucina::nccl_model;
using fucina::concat;

struct Piece {
    bool sends;
    std::byte* at;
    size_t bytes;
    int peer;
    bool done = false;
};

// What one rank has at the head of its stream: a collective, or a group of messages.
struct Entry {
    std::string kind;  // and its sizes, the same on all ranks of a collective
    const std::byte* in = nullptr;
    std::byte* out = nullptr;
    size_t bytes = 0;
    int root = 0;
    std::vector<Piece> pieces;
    bool done = false;
};

struct Group {
    std::vector<ncclComm*> ranks;
    std::vector<Entry*> at_head;
    int came = 0;  // to the making of it, or to a split
    std::map<int, std::map<std::pair<int, int>, ncclComm**>> split;  // by color, by (key, rank)
};

}  // namespace

struct ncclComm {
    std::shared_ptr<Group> group;
    int rank = 0, device = 0;
    ncclResult_t error = ncclSuccess;
    bool aborted = false;
};

namespace {

std::condition_variable changed;
std::map<int, std::shared_ptr<Group>> groups_to_be;  // by unique id
std::vector<std::weak_ptr<Group>> groups;
std::vector<std::unique_ptr<ncclComm>> comms;  // work on streams names them
int next_id = 1;
thread_local std::string last_error;

// Of this thread: messages wait for the end of the group.
struct Delayed {
    ncclComm* comm;
    CUstream_st* stream;
    Piece piece;
};
thread_local int depth = 0;
thread_local std::vector<Delayed> delayed;

void fault(Group& group, const std::string& text) {
    state().faults.push_back(text);
    for (ncclComm* comm : group.ranks)
        if (comm != nullptr) comm->error = ncclInvalidUsage;
}

// Records the call; what a test asked it to return, else success.
ncclResult_t called(int device, const std::string& name, const std::string& more = "") {
    state().calls[device].push_back(name + more);
    const auto asked = state().failures.find({device, name});
    if (asked == state().failures.end()) return ncclSuccess;
    const ncclResult_t status = asked->second;
    state().failures.erase(asked);
    last_error = "the model was asked\nto fail";
    return status;
}

void check_memory(ncclComm& comm, const char* what, const void* at, size_t bytes) {
    if (!is_device_memory(at, bytes))
        fault(*comm.group, concat("rank ", comm.rank, ": ", what, " of ", bytes,
                                  " bytes is not in device memory"));
}

void all_reduce(Group& group, size_t bytes, bool greatest) {
    std::vector<int64_t> all(bytes / 8), other(bytes / 8);
    for (size_t r = 0; r < group.ranks.size(); ++r) {
        std::memcpy(other.data(), group.at_head[r]->in, bytes);
        for (size_t i = 0; i < all.size(); ++i)
            all[i] = r == 0 ? other[i] : greatest ? std::max(all[i], other[i]) : all[i] + other[i];
    }
    for (Entry* entry : group.at_head) std::memcpy(entry->out, all.data(), bytes);
}

void run_collective(Group& group) {
    const Entry& first = *group.at_head[0];
    if (first.kind.starts_with("ncclBroadcast")) {
        const Entry& root = *group.at_head[static_cast<size_t>(first.root)];
        for (Entry* entry : group.at_head) std::memmove(entry->out, root.in, first.bytes);
    } else if (first.kind.starts_with("ncclAllGather")) {
        for (Entry* entry : group.at_head)
            for (size_t r = 0; r < group.ranks.size(); ++r)
                std::memmove(entry->out + r * first.bytes, group.at_head[r]->in, first.bytes);
    } else {
        all_reduce(group, first.bytes, first.kind.starts_with("ncclAllReduce max"));
    }
    for (Entry*& entry : group.at_head) {
        entry->done = true;
        entry = nullptr;
    }
}

// Whether the collective has run; it does as the last rank gets there.
bool meet(Group& group) {
    if (std::ranges::find(group.at_head, nullptr) != group.at_head.end()) return false;
    for (const Entry* entry : group.at_head) {
        if (entry->kind == group.at_head[0]->kind) continue;
        fault(group, concat("ranks meet in ", group.at_head[0]->kind, " and ", entry->kind));
        return false;
    }
    run_collective(group);
    return true;
}

// Delivers what both ends have at their heads.
void deliver(Group& group, int rank, Entry& own) {
    for (Piece& piece : own.pieces) {
        Entry* const other = group.at_head[static_cast<size_t>(piece.peer)];
        if (piece.done || !piece.sends || other == nullptr) continue;
        for (Piece& place : other->pieces) {
            if (place.done || place.sends || place.peer != rank) continue;
            if (place.bytes != piece.bytes) {
                fault(group, concat("rank ", rank, " sends ", piece.bytes, " bytes, rank ",
                                    piece.peer, " expects ", place.bytes));
                return;
            }
            std::memmove(place.at, piece.at, piece.bytes);
            piece.done = place.done = true;
            break;
        }
    }
}

// The stream goes on when the entry is done.
void put(ncclComm* comm, CUstream_st* stream, Entry entry) {
    auto shared = std::make_shared<Entry>(std::move(entry));
    enqueue(stream, [comm, shared] {
        if (shared->done || comm->aborted) return true;
        if (comm->error != ncclSuccess) return false;
        Group& group = *comm->group;
        group.at_head[static_cast<size_t>(comm->rank)] = shared.get();
        if (shared->pieces.empty()) return meet(group);
        for (size_t r = 0; r < group.at_head.size(); ++r)
            if (group.at_head[r] != nullptr && !group.at_head[r]->pieces.empty())
                deliver(group, static_cast<int>(r), *group.at_head[r]);
        if (!std::ranges::all_of(shared->pieces, &Piece::done)) return false;
        group.at_head[static_cast<size_t>(comm->rank)] = nullptr;
        return shared->done = true;
    });
}

ncclComm* new_comm(const std::shared_ptr<Group>& group, int rank) {
    comms.push_back(std::make_unique<ncclComm>());
    ncclComm* const comm = comms.back().get();
    *comm = {.group = group, .rank = rank, .device = current_device()};
    return group->ranks[static_cast<size_t>(rank)] = comm;
}

std::shared_ptr<Group> new_group(size_t ranks) {
    auto group = std::make_shared<Group>();
    group->ranks.resize(ranks);
    group->at_head.resize(ranks);
    groups.push_back(group);
    return group;
}

void leave(ncclComm* comm, ncclResult_t others) {
    for (ncclComm*& rank : comm->group->ranks) {
        if (rank == comm) rank = nullptr;
        if (rank != nullptr && others != ncclSuccess) rank->error = others;
    }
    comm->group->at_head[static_cast<size_t>(comm->rank)] = nullptr;
}

struct Collective {
    std::string name, more;
    const void* in;
    void* out;
    size_t bytes;
    int root = 0;
};

ncclResult_t collective(ncclComm_t comm, cudaStream_t stream, const Collective& call) {
    const std::lock_guard lock(state().mutex);
    if (const ncclResult_t status = called(comm->device, call.name, call.more)) return status;
    const size_t all = call.name == "ncclAllGather" ? comm->group->ranks.size() : 1;
    check_memory(*comm, "what goes in", call.in, call.bytes);
    check_memory(*comm, "what comes out", call.out, call.bytes * all);
    put(comm, stream_of(stream),
        {.kind = call.name + call.more,
         .in = static_cast<const std::byte*>(call.in),
         .out = static_cast<std::byte*>(call.out),
         .bytes = call.bytes,
         .root = call.root});
    return ncclSuccess;
}

ncclResult_t message(ncclComm_t comm, cudaStream_t stream, const Piece& piece) {
    const std::lock_guard lock(state().mutex);
    if (const ncclResult_t status =
            called(comm->device, piece.sends ? "ncclSend" : "ncclRecv",
                   concat(" ", piece.bytes, piece.sends ? " to " : " from ", piece.peer)))
        return status;
    check_memory(*comm, "a message", piece.at, piece.bytes);
    if (depth > 0)
        delayed.push_back({comm, stream_of(stream), piece});
    else
        put(comm, stream_of(stream), {.kind = "messages", .pieces = {piece}});
    return ncclSuccess;
}

}  // namespace

namespace fucina::nccl_model {

std::vector<std::string> calls(int device) {
    const std::lock_guard lock(state().mutex);
    return state().calls[device];
}

void fail_next(int device, const std::string& call, ncclResult_t status) {
    const std::lock_guard lock(state().mutex);
    state().failures[{device, call}] = status;
}

void lose(int device) {
    const std::lock_guard lock(state().mutex);
    for (const std::weak_ptr<Group>& weak : groups) {
        const auto group = weak.lock();
        if (!group) continue;
        const bool there = std::ranges::any_of(
            group->ranks, [&](ncclComm* comm) { return comm && comm->device == device; });
        for (ncclComm* comm : group->ranks)
            if (there && comm != nullptr && comm->device != device) comm->error = ncclRemoteError;
    }
}

}  // namespace fucina::nccl_model

extern "C" {

const char* ncclGetErrorString(ncclResult_t status) {
    return status == ncclRemoteError ? "remote process exited or there was a network error"
                                     : "internal error";
}

const char* ncclGetLastError(ncclComm_t) {
    return last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    const std::lock_guard lock(state().mutex);
    if (const ncclResult_t status = called(current_device(), "ncclGetUniqueId")) return status;
    std::memset(id, 0, sizeof *id);
    std::memcpy(id, &next_id, sizeof next_id);
    ++next_id;
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId unique, int rank) {
    std::unique_lock lock(state().mutex);
    if (const ncclResult_t status = called(current_device(), "ncclCommInitRank")) return status;
    int id = 0;
    std::memcpy(&id, &unique, sizeof id);
    std::shared_ptr<Group>& to_be = groups_to_be[id];
    if (!to_be) to_be = new_group(static_cast<size_t>(ranks));
    const std::shared_ptr<Group> group = to_be;
    *comm = new_comm(group, rank);
    ++group->came;
    changed.notify_all();
    changed.wait(lock, [&] { return group->came == ranks; });
    groups_to_be.erase(id);
    for (const ncclComm* other : group->ranks) {
        if (other == nullptr || other == *comm || other->device != (*comm)->device) continue;
        last_error = concat("Duplicate GPU detected : rank ", rank, " and rank ", other->rank);
        return ncclInvalidUsage;
    }
    return ncclSuccess;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part, ncclConfig_t*) {
    std::unique_lock lock(state().mutex);
    if (const ncclResult_t status = called(comm->device, "ncclCommSplit")) return status;
    Group& whole = *comm->group;
    const int all = static_cast<int>(whole.ranks.size());
    *part = nullptr;
    whole.split[color][{key, comm->rank}] = part;
    if (++whole.came % all == 0) {  // the last makes all parts
        for (auto& [of, members] : whole.split) {
            const auto group = new_group(members.size());
            int rank = 0;
            for (auto& [order, place] : members) {
                ncclComm* const made = new_comm(group, rank++);
                made->device = whole.ranks[static_cast<size_t>(order.second)]->device;
                *place = made;
            }
        }
        whole.split.clear();
        changed.notify_all();
    }
    changed.wait(lock, [&] { return *part != nullptr; });
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
    *count = static_cast<int>(comm->group->ranks.size());
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    const std::lock_guard lock(state().mutex);
    called(comm->device, "ncclCommDestroy");
    leave(comm, ncclSuccess);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    const std::lock_guard lock(state().mutex);
    called(comm->device, "ncclCommAbort");
    comm->aborted = true;
    leave(comm, ncclRemoteError);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
    const std::lock_guard lock(state().mutex);
    *error = comm->error;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
    const std::lock_guard lock(state().mutex);
    ++depth;
    return called(current_device(), "ncclGroupStart");
}

ncclResult_t ncclGroupEnd() {
    const std::lock_guard lock(state().mutex);
    if (--depth == 0 && !delayed.empty()) {
        Entry entry{.kind = "messages"};
        for (const Delayed& one : delayed) entry.pieces.push_back(one.piece);
        put(delayed.front().comm, delayed.front().stream, std::move(entry));
        delayed.clear();
    }
    return called(current_device(), "ncclGroupEnd");
}

ncclResult_t ncclSend(const void* at, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return message(comm, stream,
                   {true, static_cast<std::byte*>(const_cast<void*>(at)), count, peer});
}

ncclResult_t ncclRecv(void* at, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return message(comm, stream, {false, static_cast<std::byte*>(at), count, peer});
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    if (type != ncclInt64) return ncclInvalidArgument;
    const std::string more = concat(op == ncclMax ? " max " : " sum ", count);
    return collective(comm, stream, {"ncclAllReduce", more, in, out, count * 8});
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t, ncclComm_t comm,
                           cudaStream_t stream) {
    return collective(comm, stream, {"ncclAllGather", concat(" ", count), in, out, count});
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    const std::string more = concat(" ", count, " from ", root);
    return collective(comm, stream, {"ncclBroadcast", more, in, out, count, root});
}

}  // extern "C"
