-- For wrk: beats of many processors, and what came of them, counted here at the client.
-- Arguments: a file of bodies, one a line, and the bearer token. One thread only: it walks
-- through the bodies in their order, so that two requests in flight never share a processor.

local threads = {}
local requests = {}
local at = 0

acknowledged = 0
unacknowledged = 0
refused = 0

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local headers = {
      ["Accept"] = "*/*",
      ["Accept-Encoding"] = "gzip, deflate",
      ["User-Agent"] = "Python/3.11 aiohttp/3.14.5",
      ["Content-Type"] = "application/json",
      ["Authorization"] = "Bearer " .. args[2],
   }
   for body in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function response(status, _, body)
   if status ~= 200 then
      refused = refused + 1
   elseif string.find(body, '"acknowledged":true', 1, true) then
      acknowledged = acknowledged + 1
   else
      unacknowledged = unacknowledged + 1
   end
end

-- Durations and latencies in microseconds.
function done(summary, latency, _)
   local errors = summary.errors
   local thread = threads[1]
   io.write(string.format(
      '\nRESULT {"duration_us":%d,"acknowledged":%d,"unacknowledged":%d,"refused":%d,'
         .. '"broken":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.duration,
      thread:get("acknowledged"), thread:get("unacknowledged"), thread:get("refused"),
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
