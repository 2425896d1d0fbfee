-- Cases of the service hall, in the standard's words, by plain SQL.
CREATE TEMP VIEW service_case AS
SELECT
    "流水号" AS case_no,
    "事项" AS item_name,
    "区划" AS division,
    CASE "申请人类型" WHEN '自然人' THEN '1' WHEN '法人' THEN '2' END AS applicant_kind,
    "证件号码" AS applicant_doc_no,
    replace("收件时间", ' ', 'T') || '+08:00' AS received_at,
    replace("办结时间", ' ', 'T') || '+08:00' AS finished_at,
    CASE "状态" WHEN '收件' THEN '10' WHEN '受理' THEN '20' WHEN '办理' THEN '50' WHEN '办结' THEN '60' WHEN '撤回' THEN '80' END AS status
FROM department."办件";
