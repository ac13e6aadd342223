local failures, open_until = 0, 0
function envoy_on_request(request)
  if os.time() < open_until then
    request:respond({[":status"] = "503"}, "circuit open")
  end
end
function envoy_on_response(response)
  failures = tonumber(response:headers():get(":status")) >= 500 and failures + 1 or 0
  if failures >= 5 and os.time() >= open_until then open_until = os.time() + 30 end
end
