-- 6B 部门业务系统 导出: one row for each step of a case; one column for citizen numbers and credit codes; short names of departments; years of two digits.
CREATE TABLE "办件环节" (
    "流水号" TEXT,
    "事项" TEXT,
    "办理部门" TEXT,
    "申请人/单位" TEXT,
    "身份证号或信用代码" TEXT,
    "联系电话" TEXT,
    "环节" TEXT,
    "环节时间" TEXT,
    "经办人" TEXT,
    "结果" TEXT,
    "备注" TEXT
);
COMMENT ON TABLE "办件环节" IS '办件环节导出';
